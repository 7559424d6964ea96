//! The table: a line per row as soon as it is known, and all of them as JSON at the end.

use std::path::Path;

use serde_json::{Value, json};

/// What a value must satisfy.
#[derive(Clone, Copy)]
enum Target {
    None,
    AtMost(f64),
    Exactly(f64),
    RatioAtLeast(f64),
    RatioAtMost(f64),
}

/// One measurement.
pub struct Row {
    name: String,
    value: Option<f64>,
    unit: &'static str,
    target: Target,
    /// What it is compared with in the same run, and that one's value.
    other: Option<(&'static str, f64)>,
    /// What nothing measures yet has a target all the same.
    promised: Option<&'static str>,
}

impl Row {
    /// A value without a target.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value: Some(value), unit, target: Target::None, other: None, promised: None }
    }

    /// Something that nothing measures yet.
    pub fn later(name: &str, target: &'static str) -> Self {
        Self { name: name.into(), value: None, unit: "", target: Target::None, other: None, promised: Some(target) }
    }

    pub fn at_most(self, limit: f64) -> Self {
        Self { target: Target::AtMost(limit), ..self }
    }

    pub fn exactly(self, wanted: f64) -> Self {
        Self { target: Target::Exactly(wanted), ..self }
    }

    /// Compares with another value of the same run and unit.
    pub fn against(self, what: &'static str, value: f64) -> Self {
        Self { other: Some((what, value)), ..self }
    }

    pub fn ratio_at_least(self, limit: f64) -> Self {
        Self { target: Target::RatioAtLeast(limit), ..self }
    }

    pub fn ratio_at_most(self, limit: f64) -> Self {
        Self { target: Target::RatioAtMost(limit), ..self }
    }

    fn ratio(&self) -> Option<f64> {
        let (value, (_, other)) = (self.value?, self.other?);
        (other != 0.0).then(|| value / other)
    }

    fn met(&self) -> Option<bool> {
        match self.target {
            Target::None => None,
            Target::AtMost(limit) => Some(self.value? <= limit),
            #[allow(clippy::float_cmp, reason = "counts are whole numbers")]
            Target::Exactly(wanted) => Some(self.value? == wanted),
            Target::RatioAtLeast(limit) => Some(self.ratio()? >= limit),
            Target::RatioAtMost(limit) => Some(self.ratio()? <= limit),
        }
    }

    fn target(&self) -> Option<String> {
        match self.target {
            Target::None => self.promised.map(str::to_owned),
            Target::AtMost(limit) => Some(format!("<= {}", with_unit(limit, self.unit))),
            Target::Exactly(wanted) => Some(number(wanted)),
            Target::RatioAtLeast(limit) => Some(format!("ratio >= {limit}")),
            Target::RatioAtMost(limit) => Some(format!("ratio <= {limit}")),
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.value, self.met()) {
            (None, _) => "not yet",
            (_, Some(true)) => "met",
            (_, Some(false)) => "MISSED",
            (_, None) => "",
        }
    }

    fn json(&self) -> Value {
        let other = self.other.map(|(what, value)| format!("{what}: {}", with_unit(value, self.unit)));
        json!({
            "row": self.name, "value": self.value, "unit": self.unit, "target": self.target(), "met": self.met(),
            "compared_with": other, "ratio": self.ratio(),
        })
    }
}

/// The rows so far.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Prints what the columns are.
    pub fn header() {
        println!("{:<74} {:>16}  {:<16} {:<8} compared with", "row", "reached", "target", "");
    }

    /// Prints a row and keeps it.
    pub fn add(&mut self, row: Row) {
        let value = row.value.map_or_else(|| "not yet".to_owned(), |value| with_unit(value, row.unit));
        let other = row.other.map(|(what, value)| {
            let ratio = row.ratio().map(|ratio| format!(", ratio {ratio:.2}")).unwrap_or_default();
            format!("{what}: {}{ratio}", with_unit(value, row.unit))
        });
        let verdict = if row.value.is_some() { row.verdict() } else { "" };
        let line = format!(
            "{:<74} {:>16}  {:<16} {:<8} {}",
            row.name,
            value,
            row.target().unwrap_or_default(),
            verdict,
            other.unwrap_or_default()
        );
        println!("{}", line.trim_end());
        self.rows.push(row);
    }

    /// Writes all rows to `path`, and says how many of them reach their targets.
    pub fn finish(&self, path: &Path) {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        std::fs::write(path, serde_json::to_vec_pretty(&rows).unwrap()).unwrap();
        let count = |verdict| self.rows.iter().filter(|row| row.verdict() == verdict).count();
        println!("\n{} met, {} missed, {} not yet; written to {}", count("met"), count("MISSED"), count("not yet"), path.display());
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", number(value)).trim_end().to_owned()
}

/// A number as people read it: three digits that matter, thousands apart.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v == v.trunc() || v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 && digit.is_ascii_digit() {
            out.push(',');
        }
        out.push(digit);
    }
    fraction.map_or(out.clone(), |fraction| format!("{out}.{fraction}"))
}

/// The middle value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value below which a part of the values lies, in hundredths.
pub fn percentile(mut values: Vec<f64>, hundredths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * hundredths / 100).min(values.len() - 1)]
}
