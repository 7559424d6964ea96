//! Serves the API on loopback: `serve DATA TOKEN [ADDRESS]`; prints the address. Tests kill it to see what survives.

use std::io::Write;

use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().filter(|data| data != "-");
    let token = arguments.next().ok_or_else(|| anyhow::anyhow!("usage: serve DATA TOKEN [ADDRESS]"))?;
    let listener = std::net::TcpListener::bind(arguments.next().as_deref().unwrap_or("127.0.0.1:0"))?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let config = apiserver::Config { data: data.map(Into::into), token, listeners: vec![listener], listen: Vec::new() };
    apiserver::run(config, CancellationToken::new()).await
}
