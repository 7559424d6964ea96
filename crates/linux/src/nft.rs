//! nftables: one table at a time, replaced as a whole in one transaction.
//!
//! The types are those of the `nftables` crate; the rules go to the kernel through `nft -j`, one execution per change.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use nftables::batch::Batch;
pub use nftables::{expr, schema, stmt, types};
use schema::{NfListObject, Nftables, Table};
use types::NfFamily;

use crate::{Error, Netns, Result};

/// Applies commands atomically inside a namespace.
///
/// # Errors
/// When `nft` cannot be run or the kernel refuses; nothing is changed then.
pub fn apply(netns: &Netns, commands: &Nftables<'_>) -> Result<()> {
    let failed = |cause: io::Error| Error::new(format!("nftables in {}", netns.label()), "apply", cause);
    let json = serde_json::to_vec(commands).map_err(|e| failed(e.into()))?;
    nft(netns, &["-j", "-f", "-"], &json).map(|_| ()).map_err(failed)
}

/// Puts `content` (chains, sets and rules of that table) in the place of whatever the table holds, atomically.
///
/// # Errors
/// As [`apply`].
pub fn replace_table<'a>(netns: &Netns, family: NfFamily, name: &'a str, content: Vec<NfListObject<'a>>) -> Result<()> {
    let mut batch = Batch::new();
    let table = || NfListObject::Table(Table { family, name: name.into(), handle: None });
    // Adding first makes the deletion succeed whether or not the table is there.
    batch.add(table());
    batch.delete(table());
    batch.add(table());
    content.into_iter().for_each(|object| batch.add(object));
    apply(netns, &batch.to_nftables())
}

/// Deletes a table; a missing one is no error.
///
/// # Errors
/// As [`apply`].
pub fn delete_table(netns: &Netns, family: NfFamily, name: &str) -> Result<()> {
    let mut batch = Batch::new();
    let table = || NfListObject::Table(Table { family, name: name.into(), handle: None });
    batch.add(table());
    batch.delete(table());
    apply(netns, &batch.to_nftables())
}

/// The names of all tables inside a namespace, sorted.
///
/// # Errors
/// When `nft` cannot be run or prints what we cannot read.
pub fn tables(netns: &Netns) -> Result<Vec<String>> {
    let failed = |cause: io::Error| Error::new(format!("nftables in {}", netns.label()), "list tables", cause);
    let json = nft(netns, &["-j", "list", "tables"], b"").map_err(failed)?;
    let listed: Nftables<'_> = serde_json::from_slice(&json).map_err(|e| failed(e.into()))?;
    let table = |object: &schema::NfObject<'_>| match object {
        schema::NfObject::ListObject(NfListObject::Table(table)) => Some(table.name.to_string()),
        _ => None,
    };
    let mut names: Vec<_> = listed.objects.iter().filter_map(table).collect();
    names.sort();
    Ok(names)
}

// Not the crate's own call: that one lets the program's complaint go to our standard error instead of into the error.
fn nft(netns: &Netns, arguments: &[&str], input: &[u8]) -> io::Result<Vec<u8>> {
    let run = || {
        let mut command = Command::new("nft");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| io::Error::new(e.kind(), format!("nft: {e}")))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input)?;
        }
        child.wait_with_output()
    };
    let output = netns.run(run).map_err(|e| io::Error::other(e.to_string()))??;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(complaint.trim().lines().collect::<Vec<_>>().join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use schema::Chain;

    fn chain<'a>(table: &'a str, name: &'a str) -> NfListObject<'a> {
        NfListObject::Chain(Chain { family: NfFamily::INet, table: table.into(), name: name.into(), ..Chain::default() })
    }

    #[test]
    fn a_table_is_replaced_as_a_whole_and_others_survive() {
        let scratch = Scratch::new("nft");
        replace_table(&scratch.netns, NfFamily::INet, "foreign", vec![]).unwrap();
        replace_table(&scratch.netns, NfFamily::INet, "ours", vec![chain("ours", "one")]).unwrap();
        replace_table(&scratch.netns, NfFamily::INet, "ours", vec![chain("ours", "two")]).unwrap();
        let text = String::from_utf8(nft(&scratch.netns, &["list", "table", "inet", "ours"], b"").unwrap()).unwrap();
        assert!(text.contains("chain two") && !text.contains("chain one"), "{text}");
        delete_table(&scratch.netns, NfFamily::INet, "ours").unwrap();
        delete_table(&scratch.netns, NfFamily::INet, "ours").unwrap();
        assert_eq!(tables(&scratch.netns).unwrap(), ["foreign"]);
    }

    #[test]
    fn a_refusal_says_why_and_changes_nothing() {
        let scratch = Scratch::new("nfterr");
        let error = replace_table(&scratch.netns, NfFamily::INet, "ours", vec![chain("other", "one")]).unwrap_err();
        assert!(error.to_string().contains("No such file or directory"), "{error}");
        assert_eq!(tables(&scratch.netns).unwrap(), Vec::<String>::new());
    }
}
