//! One execution of a plugin: parameters in the environment, configuration on standard input, the answer on standard output.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{Answer, Attachment, Network, Runtime, join};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Is it attached as the result says?
    Check,
    /// Detach all but those that are named.
    Gc,
    /// Can attachments be made?
    Status,
    /// Which versions are spoken?
    Version,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        })
    }
}

/// A call that is ready to be made. Whoever wants to know what a plugin does with nonsense changes it before.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked.
    pub verb: Verb,
    /// The plugin.
    pub program: PathBuf,
    /// Its whole environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// Its standard input.
    pub stdin: Vec<u8>,
}

impl Call {
    /// With a variable of the environment.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Without a variable of the environment.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(&OsString::from(name));
        self
    }

    /// With another standard input.
    #[must_use]
    pub fn reading(self, stdin: impl Into<Vec<u8>>) -> Self {
        Self { stdin: stdin.into(), ..self }
    }
}

impl Runtime {
    /// What a plugin of a network is to be called with.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub fn call(
        &self,
        verb: Verb,
        network: &Network,
        plugin: &Value,
        attachment: &Attachment,
        previous: Option<&Value>,
    ) -> anyhow::Result<Call> {
        let program = self.program(plugin["type"].as_str().context("a plugin without a type")?)?;
        let args: Vec<_> = attachment.args.iter().map(|(name, value)| format!("{name}={value}")).collect();
        // All of them always, as libcni does; those that a verb has no use for are empty.
        let environment = [
            ("CNI_COMMAND", verb.to_string().into()),
            ("CNI_CONTAINERID", attachment.container.clone().into()),
            ("CNI_NETNS", attachment.netns.clone().unwrap_or_default().into_os_string()),
            ("CNI_IFNAME", attachment.ifname.clone().into()),
            ("CNI_ARGS", args.join(";").into()),
            ("CNI_PATH", join(&self.search_path()).into()),
            ("FERROVIA_AGENT_SOCKET", self.lab.layout.agent_socket(self.node).into_os_string()),
            (crate::name::MARK, self.lab.layout.name().to_string().into()),
        ];
        let environment = environment.map(|(name, value): (_, OsString)| (name.into(), value)).into();
        let stdin = serde_json::to_vec(&network.configuration(plugin, &attachment.capabilities, previous))?;
        Ok(Call { verb, program, environment, stdin })
    }

    /// Calls a plugin in the node's namespace. When this is dropped before it ends, the plugin is killed.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub async fn execute(&self, call: &Call) -> anyhow::Result<Answer> {
        let name = || format!("CNI plugin {}", call.program.display());
        let mut command = Command::new(&call.program);
        command.env_clear().envs(&call.environment).current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let netns = self.lab.layout.netns(self.node)?;
        let handle = tokio::runtime::Handle::current();
        let (child, began) = netns.run(|| {
            let _entered = handle.enter();
            let began = Instant::now();
            (command.spawn(), began)
        })?;
        let mut child = child.with_context(|| format!("cannot execute {}", name()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that ends early says why on standard output.
            let _ = stdin.write_all(&call.stdin).await;
        }
        let output = child.wait_with_output().await.with_context(|| format!("cannot wait for {}", name()))?;
        let took = began.elapsed();
        Ok(Answer { verb: call.verb, exit: output.status.code(), stdout: output.stdout, stderr: output.stderr, took })
    }
}
