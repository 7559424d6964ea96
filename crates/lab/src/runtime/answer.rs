//! What a plugin answers.

use std::time::Duration;

use serde_json::Value;

use super::Verb;

/// What came of calling a plugin.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it was asked.
    pub verb: Verb,
    /// Its exit status; none when a signal ended it.
    pub exit: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// From its start to its end; of several plugins called in turn, the sum.
    pub took: Duration,
}

/// A plugin's error (SPEC.md, section 5, "Error").
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CNI {verb}: {message}")]
pub struct Refusal {
    /// What was asked.
    pub verb: Verb,
    /// Its code: the specification's below 100, the plugin's own from there on. None when it told none.
    pub code: Option<u32>,
    /// What it said; message and details.
    pub message: String,
}

impl Answer {
    /// What it printed, if that is JSON.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.stdout).ok()
    }

    /// Its result; null when it printed none, as those verbs do that have none.
    ///
    /// # Errors
    /// With its error, in its own words if it found any.
    pub fn ok(&self) -> Result<Value, Refusal> {
        let refusal = |code, message| Err(Refusal { verb: self.verb, code, message });
        let printed = self.json();
        if self.exit == Some(0) {
            return match printed {
                Some(result) => Ok(result),
                None if self.stdout.is_empty() && self.verb != Verb::Add => Ok(Value::Null),
                None => refusal(None, "the answer is no JSON".to_owned()),
            };
        }
        let said = |field: &str| Some(printed.as_ref()?[field].as_str()?.to_owned()).filter(|text| !text.is_empty());
        let message = match (said("msg"), said("details")) {
            (Some(message), Some(details)) => format!("{message}: {details}"),
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => {
                let ended = self.exit.map_or_else(|| "ended by a signal".to_owned(), |status| format!("exit status {status}"));
                format!("{ended}: {}", String::from_utf8_lossy(&self.stderr).trim())
            }
        };
        let code = printed.as_ref().and_then(|answer| answer["code"].as_u64()).and_then(|code| u32::try_from(code).ok());
        refusal(code, message)
    }
}
