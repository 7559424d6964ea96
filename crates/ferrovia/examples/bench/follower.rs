//! A replica that follows a database.

use std::time::Duration;

use ovsdb::{Client, Event, Options, Remote, connect};
use ovsdb_types::{Monitored, Replica, TableId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A replica that follows a database.
pub struct Follower {
    pub replica: Replica,
    /// Without it the driver would stop.
    pub client: Client,
    events: mpsc::Receiver<Event>,
    driver: JoinHandle<()>,
    lost: bool,
}

impl Follower {
    pub async fn start(remote: &Remote, monitored: Monitored) -> Self {
        let (client, events, driver) = connect(Options::new(remote.clone(), monitored.clone()));
        let driver = tokio::spawn(driver.run());
        let mut follower = Self { replica: Replica::new(monitored, vec![]), events, driver, client, lost: true };
        while follower.lost {
            follower.next().await;
        }
        follower
    }

    /// Takes in the next event: how many rows it changes.
    pub async fn next(&mut self) -> usize {
        let event = tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await.expect("the database changes within a minute");
        match event.unwrap() {
            Event::Snapshot(monitored, snapshot) => {
                self.lost = false;
                self.replica.replace(monitored, snapshot).unwrap().len()
            }
            Event::Updates(updates) => self.replica.apply(updates).unwrap().len(),
            Event::Disconnected(_) => {
                self.lost = true;
                0
            }
            Event::Status(_) => 0,
        }
    }

    /// Waits until the connection is lost.
    pub async fn lost(&mut self) {
        while !self.lost {
            self.next().await;
        }
    }

    /// Waits until there is a connection, and that many rows.
    pub async fn rows(&mut self, table: TableId, wanted: usize) {
        self.until(|replica| replica.len(table) >= wanted).await;
    }

    /// Waits until there is a connection, and this holds.
    pub async fn until(&mut self, holds: impl Fn(&Replica) -> bool) {
        while self.lost || !holds(&self.replica) {
            self.next().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
