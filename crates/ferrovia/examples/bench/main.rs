//! `make bench`: the numbers that the design promises, measured on this machine. Times and rates are of one run, medians
//! where something is done many times; counts are exact. `bench NAME…` measures only the parts of these names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]

mod cluster;
mod cni;
mod control_plane;
mod egress;
mod engine;
mod follower;
mod ipam;
mod lab;
mod memory;
mod ovsdb;
mod raw;
mod report;
mod scale;
mod servers;
mod vms;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use report::{Report, Row};

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

const PARTS: [&str; 9] = ["ovsdb", "engine", "ipam", "control_plane", "scale", "egress", "lab", "cni", "vms"];

/// The controller's heap on huge pages, as docs/architecture.md says to run it: the glibc manual, "Memory Allocation Tunables".
const HUGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

fn main() {
    if std::env::var_os(HUGE_PAGES.0).is_none() {
        let error = Command::new(std::env::current_exe().unwrap()).args(std::env::args_os().skip(1)).env(HUGE_PAGES.0, HUGE_PAGES.1).exec();
        panic!("cannot start anew: {error}");
    }
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = chosen.iter().find(|name| !PARTS.contains(&name.as_str())) {
        eprintln!("error: no part is called {unknown}; there are {}", PARTS.join(", "));
        std::process::exit(2);
    }
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|n| n == name);
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores; times are of one run, medians where many were taken; counts are exact\n");
    Report::header();
    let began = std::time::Instant::now();
    let mut report = Report::default();
    // Before anything else fills the heap.
    if wanted("engine") {
        engine::measure(&mut report);
    }
    if wanted("ipam") {
        ipam::measure(&mut report);
    }
    if wanted("ovsdb") {
        ovsdb::measure(&mut report);
    }
    if wanted("control_plane") {
        control_plane::measure(&mut report);
    }
    if wanted("scale") {
        scale::measure(&mut report);
    }
    if wanted("egress") {
        egress::measure(&mut report);
    }
    if wanted("lab") {
        lab::measure(&mut report);
    }
    if wanted("cni") {
        cni::measure(&mut report);
    }
    if wanted("vms") {
        vms::measure(&mut report);
    }
    if chosen.is_empty() {
        for (row, target) in LATER {
            report.add(Row::later(row, target));
        }
    }
    report.finish(&servers::target_folder().join("bench.json"));
    println!("took {:.0} s", began.elapsed().as_secs_f64());
}

/// What the design names and nothing measures yet.
const LATER: [(&str, &str); 1] = [("pings lost during a rebuild, ovn-northd supervised", "0")];
