//! A network: a list of plugins (`*.conflist`), and the configuration that each of them gets.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::layout::read_json;

/// A list of plugins.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    version: String,
    name: String,
    plugins: Vec<Value>,
    /// Further keys that every plugin gets.
    more: Map<String, Value>,
}

impl Network {
    /// A network of plugins.
    #[must_use]
    pub fn of(version: &str, name: &str, plugins: Vec<Value>) -> Self {
        Self { version: version.to_owned(), name: name.to_owned(), plugins, more: Map::new() }
    }

    /// Reads a list.
    ///
    /// # Errors
    /// When it is not there, or is none.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let mut list: Value = read_json(file)?;
        let text = |key: &str| list[key].as_str().with_context(|| format!("{}: {key} is missing", file.display())).map(str::to_owned);
        let (version, name) = (text("cniVersion")?, text("name")?);
        let Value::Array(plugins) = list["plugins"].take() else { anyhow::bail!("{}: plugins is missing", file.display()) };
        Ok(Self::of(&version, &name, plugins))
    }

    /// The first list of a folder by name.
    pub(super) fn installed(folder: &Path) -> anyhow::Result<Self> {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let lists = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension().is_some_and(|e| e == "conflist"));
        Self::read(&lists.min().with_context(|| format!("no network is installed in {}", folder.display()))?)
    }

    /// The same with another version.
    #[must_use]
    pub fn at(&self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self.clone() }
    }

    /// The same with further keys for every plugin.
    #[must_use]
    pub fn with(&self, more: Map<String, Value>) -> Self {
        Self { more, ..self.clone() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its plugins.
    pub fn plugins(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.plugins.iter()
    }

    /// Whether its version is at least this one, major and minor.
    pub(super) fn speaks(&self, least: (u32, u32)) -> bool {
        let mut numbers = self.version.split('.').map(|number| number.parse().unwrap_or_default());
        (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) >= least
    }

    /// What a plugin of it reads: its own part, with the list's name and version, the result before it, and those
    /// capability arguments that it announces (SPEC.md, section 3, "Deriving execution configuration").
    pub(super) fn configuration(&self, plugin: &Value, capabilities: &Map<String, Value>, previous: Option<&Value>) -> Value {
        let mut configuration = plugin.clone();
        configuration["cniVersion"] = self.version.as_str().into();
        configuration["name"] = self.name.as_str().into();
        if let Some(previous) = previous {
            configuration["prevResult"] = previous.clone();
        }
        for (key, value) in &self.more {
            configuration[key] = value.clone();
        }
        let announced = plugin["capabilities"].as_object();
        let given = capabilities.iter().filter(|(name, _)| announced.is_some_and(|known| known.get(*name) == Some(&Value::Bool(true))));
        let given: Map<_, _> = given.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !given.is_empty() {
            configuration["runtimeConfig"] = given.into();
        }
        configuration
    }
}
