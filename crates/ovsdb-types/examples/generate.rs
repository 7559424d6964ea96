//! Writes `src/{nb,sb,vswitch}.rs` from the installed schema files.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (file, module) in ovsdb_types::generate::SOURCES {
        let schema = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
        let source = ovsdb_types::generate::module(&schema).map_err(|e| format!("{file}: {e}"))?;
        std::fs::write(format!("{}/src/{module}", env!("CARGO_MANIFEST_DIR")), source)?;
    }
    Ok(())
}
