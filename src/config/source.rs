//! The source of settings: a TOML file, and the environment, which takes precedence. Every setting is read by one call
//! with its key, its default and its bounds.
//!
//! All errors are collected, so that one run reports all of them. An unknown key is an error as well; for a renamed
//! one, the error contains its new name. The values in effect are collected for `--print-config`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{Display, Write as _},
    path::PathBuf,
    time::Duration,
};

use secrecy::SecretString;

use super::{ConfigError, traces};
use crate::units::{DURATION_FORM, SIZE_FORM, format_duration, format_size, parse_duration, parse_size};

const PREFIX: &str = "WARRENGATE_";
const REDACTED: &str = "(redacted)";

/// Renamed settings, with their current names.
const RENAMED: &[(&str, &str)] = &[
    ("auth.secret_checks_at_once", "auth.max_concurrent_secret_checks"),
    ("auth.wrong_secrets_per_client", "auth.failed_logins_per_minute_per_client"),
    ("auth.wrong_secrets_per_address", "auth.failed_logins_per_minute_per_address"),
    ("refresh_at_most_every", "min_refresh_interval"),
];

/// The value of one key.
#[derive(Debug, Clone)]
enum Given {
    File(toml::Value),
    /// The variable's name, and its text.
    Environment(String, String),
}

/// The given values, the errors in them, and the values in effect.
#[derive(Debug, Default)]
pub(super) struct Source {
    given: BTreeMap<String, Given>,
    read_keys: BTreeSet<&'static str>,
    errors: Vec<ConfigError>,
    effective: Vec<(&'static str, Shown)>,
}

/// How a value in effect is listed.
#[derive(Debug)]
enum Shown {
    /// As TOML.
    Value(String),
    /// One table of a list of tables.
    Table(String),
}

/// The result of reading all settings.
pub(super) struct Finished {
    /// All errors, including those for unknown keys.
    pub(super) errors: Vec<ConfigError>,
    /// The values in effect, in the form of the file.
    pub(super) listing: String,
    /// All keys that were read.
    #[cfg(test)]
    pub(super) read_keys: BTreeSet<&'static str>,
}

impl Source {
    /// Reads a file's text and the environment. `WARRENGATE_GRPC__LISTEN` is `grpc.listen`; a variable without `__` is
    /// not a setting of the gateway (the command line has some), except `WARRENGATE_DATABASE_URL`, which is
    /// `store.url`. OpenTelemetry's standard variables apply as well.
    pub(super) fn new(file: Option<&str>, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut source = Self::default();
        if let Some(text) = file {
            match text.parse::<toml::Table>() {
                Ok(table) => source.flatten("", table),
                // The parser's full message quotes the line, which may contain a secret, so only the line number is
                // shown.
                Err(error) => {
                    let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or(text).lines().count());
                    source.error("the file", None, format!("is not TOML: {} (line {line})", error.message()));
                }
            }
        }
        let environment: HashMap<_, _> = environment.into_iter().collect();
        for (key, name, value) in traces::standard(&environment) {
            source.given.insert(key.to_owned(), Given::Environment(name, value));
        }
        for (name, value) in environment {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let key = match rest {
                "DATABASE_URL" => "store.url".to_owned(),
                _ if rest.contains("__") => rest.replace("__", ".").to_ascii_lowercase(),
                _ => continue,
            };
            if !value.is_empty() {
                source.given.insert(key, Given::Environment(name, value));
            }
        }
        source
    }

    fn flatten(&mut self, prefix: &str, table: toml::Table) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value {
                toml::Value::Table(table) => self.flatten(&key, table),
                value => drop(self.given.insert(key, Given::File(value))),
            }
        }
    }

    pub(super) fn error(&mut self, key: &str, value: Option<String>, what: impl Into<String>) {
        self.errors.push(ConfigError { key: key.to_owned(), value, what: what.into() });
    }

    /// Whether the key has a value.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    fn take(&mut self, key: &'static str) -> Option<Given> {
        self.read_keys.insert(key);
        self.given.get(key).cloned()
    }

    /// Lists a value in effect; a later one for the same key replaces it.
    fn show(&mut self, key: &'static str, value: impl Into<toml::Value>) {
        let shown = Shown::Value(value.into().to_string());
        match self.effective.iter_mut().find(|(listed, _)| *listed == key) {
            Some((_, listed)) => *listed = shown,
            None => self.effective.push((key, shown)),
        }
    }

    /// A text; an error if the value has another type.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let text = match self.take(key)? {
            Given::Environment(_, text) | Given::File(toml::Value::String(text)) => text,
            Given::File(other) => {
                self.error(key, Some(other.to_string()), "must be text in quotes");
                return None;
            }
        };
        self.show(key, text.clone());
        Some(text)
    }

    /// A text, or the default.
    pub(super) fn text_or(&mut self, key: &'static str, default: impl Into<String>) -> String {
        let text = self.text(key).unwrap_or_else(|| default.into());
        self.show(key, text.clone());
        text
    }

    /// A text that is never shown in an error; `shown` converts it for the listing.
    pub(super) fn secret_or(
        &mut self,
        key: &'static str,
        default: &str,
        shown: impl Fn(&str) -> String,
    ) -> SecretString {
        let text = match self.take(key) {
            None => default.to_owned(),
            Some(Given::Environment(_, text) | Given::File(toml::Value::String(text))) => text,
            Some(Given::File(_)) => {
                self.error(key, None, "must be text in quotes");
                default.to_owned()
            }
        };
        self.show(key, shown(&text));
        text.into()
    }

    /// A secret from the environment or from the file in `<key>_file`, but never from the configuration file itself.
    pub(super) fn secret_or_file(&mut self, key: &'static str, file_key: &'static str) -> SecretString {
        let (given, path) = (self.take(key), self.path(file_key));
        self.show(key, REDACTED);
        match (given, path) {
            (Some(Given::File(_)), _) => {
                let what = format!(
                    "must not be in this file: write it into a file of its own, readable by the gateway only, and \
                     set {file_key} to its path"
                );
                self.error(key, None, what);
            }
            (Some(Given::Environment(name, _)), Some(_)) => {
                self.error(key, None, format!("is set twice, by {name} and by {file_key}: remove one"));
            }
            (Some(Given::Environment(_, text)), None) => return text.into(),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) if text.trim().is_empty() => {
                    let what = "is an empty file: write the secret into it";
                    self.error(file_key, Some(path.display().to_string()), what);
                }
                Ok(text) => return text.trim_end_matches(['\r', '\n']).to_owned().into(),
                Err(error) => {
                    let what = format!("cannot be read: {}; make it readable by the gateway", error.kind());
                    self.error(file_key, Some(path.display().to_string()), what);
                }
            },
            (None, None) => {
                let what = format!(
                    "is required: set {file_key} to the path of a file that contains it, or set {}",
                    variable(key)
                );
                self.error(key, None, what);
            }
        }
        SecretString::default()
    }

    /// As [`Self::secret_or_file`], for a secret that may be missing.
    pub(super) fn optional_secret_or_file(
        &mut self,
        key: &'static str,
        file_key: &'static str,
    ) -> Option<SecretString> {
        let is_given = [key, file_key].iter().any(|key| self.is_given(key));
        self.read_keys.extend([key, file_key]);
        is_given.then(|| self.secret_or_file(key, file_key))
    }

    /// A text converted by `parse`, or the default.
    pub(super) fn parsed<T: Display>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let value = match self.text(key) {
            None => default,
            Some(text) => parse(&text).unwrap_or_else(|what| {
                self.error(key, Some(text), what);
                default
            }),
        };
        self.show(key, value.to_string());
        value
    }

    /// A required text; empty after an error.
    pub(super) fn required(&mut self, key: &'static str, what: &str) -> String {
        let text = self.text(key);
        if text.is_none() && !self.is_given(key) {
            self.error(key, None, format!("is required: {what}"));
        }
        text.unwrap_or_default()
    }

    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A required path; empty after an error.
    pub(super) fn required_path(&mut self, key: &'static str, what: &str) -> PathBuf {
        self.required(key, what).into()
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let (shown, value) = match self.take(key) {
            None => (String::new(), Some(default)),
            Some(Given::File(toml::Value::Boolean(value))) => (String::new(), Some(value)),
            Some(Given::File(toml::Value::String(text)) | Given::Environment(_, text)) => {
                (text.clone(), text.parse().ok())
            }
            Some(Given::File(other)) => (other.to_string(), None),
        };
        self.value_or(key, value, default, shown, "must be true or false".to_owned())
    }

    /// A whole number between bounds.
    pub(super) fn number(&mut self, key: &'static str, default: u64, min: u64, max: u64) -> u64 {
        let (shown, value) = self.integer(key, |text| text.parse().ok());
        let value = value.unwrap_or(Some(default)).filter(|value| (min..=max).contains(value));
        let value = value.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
        let default = i64::try_from(default).unwrap_or(i64::MAX);
        let what = format!("must be a whole number from {min} to {max}");
        self.value_or(key, value, default, shown, what).unsigned_abs()
    }

    /// A size in bytes between bounds.
    pub(super) fn size(&mut self, key: &'static str, default: u64, min: u64, max: u64) -> u64 {
        let (shown, value) = self.integer(key, parse_size);
        let value = value.unwrap_or(Some(default)).filter(|value| (min..=max).contains(value));
        let what = format!("must be {SIZE_FORM}, from {} to {}", format_size(min), format_size(max));
        let value = value.unwrap_or_else(|| {
            self.error(key, Some(shown), what);
            default
        });
        self.show(key, format_size(value));
        value
    }

    /// The text of a number, and the number if it is valid; `None` if there is no value.
    fn integer(&mut self, key: &'static str, parse: impl Fn(&str) -> Option<u64>) -> (String, Option<Option<u64>>) {
        match self.take(key) {
            None => (String::new(), None),
            Some(Given::File(toml::Value::Integer(value))) => (value.to_string(), Some(u64::try_from(value).ok())),
            Some(Given::File(toml::Value::String(text)) | Given::Environment(_, text)) => {
                (text.clone(), Some(parse(&text)))
            }
            Some(Given::File(other)) => (other.to_string(), Some(None)),
        }
    }

    /// A number from 0 to 1.
    pub(super) fn ratio(&mut self, key: &'static str, default: f64) -> f64 {
        let (shown, value) = match self.take(key) {
            None => (String::new(), Some(default)),
            #[allow(clippy::cast_precision_loss, reason = "only 0 and 1 are accepted")]
            Some(Given::File(toml::Value::Integer(value))) => (value.to_string(), Some(value as f64)),
            Some(Given::File(toml::Value::Float(value))) => (value.to_string(), Some(value)),
            Some(Given::File(toml::Value::String(text)) | Given::Environment(_, text)) => {
                (text.clone(), text.parse().ok())
            }
            Some(Given::File(other)) => (other.to_string(), None),
        };
        let value = value.filter(|value| (0.0..=1.0).contains(value));
        self.value_or(key, value, default, shown, "must be a number from 0 to 1".to_owned())
    }

    fn value_or<T: Copy + Into<toml::Value>>(
        &mut self,
        key: &'static str,
        value: Option<T>,
        default: T,
        shown: String,
        what: String,
    ) -> T {
        let value = value.unwrap_or_else(|| {
            self.error(key, Some(shown), what);
            default
        });
        self.show(key, value);
        value
    }

    /// A duration between bounds.
    pub(super) fn duration(&mut self, key: &'static str, default: Duration, min: Duration, max: Duration) -> Duration {
        let (shown, value) = match self.take(key) {
            None => (String::new(), Some(default)),
            Some(Given::File(toml::Value::String(text)) | Given::Environment(_, text)) => {
                (text.clone(), parse_duration(&text))
            }
            Some(Given::File(other)) => (other.to_string(), None),
        };
        let value = value.filter(|value| (min..=max).contains(value)).unwrap_or_else(|| {
            let (min, max) = (format_duration(min), format_duration(max));
            self.error(key, Some(shown), format!("must be {DURATION_FORM}, from {min} to {max}"));
            default
        });
        self.show(key, format_duration(value));
        value
    }

    /// A list of texts; in the environment they are separated by commas.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<String> {
        let list: Vec<String> = match self.take(key) {
            None => Vec::new(),
            Some(Given::Environment(_, text)) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            Some(Given::File(toml::Value::Array(items))) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            Some(Given::File(other)) => {
                self.error(key, Some(other.to_string()), "must be a list of texts, for example [\"a\", \"b\"]");
                Vec::new()
            }
        };
        self.show(key, list.clone());
        list
    }

    /// A table of lists of texts.
    pub(super) fn lists(&mut self, key: &'static str) -> BTreeMap<String, Vec<String>> {
        if let Some(Given::File(other)) = self.take(key) {
            self.error(
                key,
                Some(other.to_string()),
                "must be a table of lists of texts, for example {name = [\"a\", \"b\"]}",
            );
        }
        let prefix = format!("{key}.");
        let names: Vec<_> =
            self.given.keys().filter_map(|given| given.strip_prefix(&prefix)).map(str::to_owned).collect();
        let mut lists = BTreeMap::new();
        for name in names {
            match self.given.remove(&format!("{prefix}{name}")) {
                Some(Given::File(toml::Value::Array(items))) if items.iter().all(toml::Value::is_str) => {
                    let items = items.iter().filter_map(|item| item.as_str().map(str::to_owned));
                    drop(lists.insert(name, items.collect()));
                }
                _ => self.error(key, Some(name), "must be a list of texts, for example [\"a\", \"b\"]"),
            }
        }
        if !lists.is_empty() {
            let table = lists.iter().map(|(name, items): (&String, &Vec<String>)| (name.clone(), items.clone().into()));
            self.show(key, table.collect::<toml::Table>());
        }
        lists
    }

    /// A list of tables, each read by `read` from a source of its own; in the environment it is one text in TOML.
    pub(super) fn tables<T>(&mut self, key: &'static str, mut read: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let (given, shown) = match self.take(key) {
            None => return Vec::new(),
            Some(Given::File(value)) => (Some(value), None),
            Some(Given::Environment(_, text)) => (
                format!("it = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("it")),
                Some(text),
            ),
        };
        let Some(tables) = given.and_then(|value| value.try_into::<Vec<toml::Table>>().ok()) else {
            self.error(key, shown, "must be a list of tables, each like those of docs/warrengate.example.toml");
            return Vec::new();
        };
        let each = tables.into_iter().enumerate().map(|(index, table)| {
            let mut source = Self::default();
            source.flatten("", table);
            let value = read(&mut source);
            let Finished { errors, listing, .. } = source.finish();
            self.errors.extend(errors.into_iter().map(|error| {
                let dot = if error.key.is_empty() { "" } else { "." };
                ConfigError { key: format!("{key}[{index}]{dot}{}", error.key), ..error }
            }));
            self.effective.push((key, Shown::Table(format!("\n[[{key}]]\n{listing}"))));
            value
        });
        each.collect()
    }

    pub(super) fn finish(mut self) -> Finished {
        let unknown: Vec<_> = self
            .given
            .iter()
            .filter(|(key, _)| !self.read_keys.contains(key.as_str()))
            .map(|(key, given)| {
                let new_name = RENAMED.iter().find(|(old, _)| old == key).map(|(_, new)| *new);
                let what = match (new_name, given) {
                    (Some(new), Given::File(_)) => format!("was renamed: write {new}"),
                    (Some(new), Given::Environment(name, _)) => {
                        format!("was renamed to {new}: set {} instead of {name}", variable(new))
                    }
                    (None, Given::File(_)) => "is not a setting: see docs/warrengate.example.toml".to_owned(),
                    (None, Given::Environment(name, _)) => {
                        format!("is not a setting: unset {name}, or see docs/warrengate.example.toml")
                    }
                };
                (key.clone(), what)
            })
            .collect();
        for (key, what) in unknown {
            self.error(&key, None, what);
        }
        Finished {
            listing: listing(&self.effective),
            errors: self.errors,
            #[cfg(test)]
            read_keys: self.read_keys,
        }
    }
}

/// The values by section, in the order in which the sections were read, with tables at the end of each section.
fn listing(effective: &[(&'static str, Shown)]) -> String {
    let section = |key: &'static str| key.rsplit_once('.').map_or("", |(section, _)| section);
    let mut sections: Vec<&str> = Vec::new();
    for (key, _) in effective {
        if !sections.contains(&section(key)) {
            sections.push(section(key));
        }
    }
    let mut text = String::new();
    for name in sections {
        if !name.is_empty() {
            let _ = writeln!(text, "{}[{name}]", if text.is_empty() { "" } else { "\n" });
        }
        let of_section = || effective.iter().filter(|(key, _)| section(key) == name);
        for (key, shown) in of_section() {
            if let Shown::Value(value) = shown {
                let _ = writeln!(text, "{} = {value}", key.rsplit('.').next().unwrap_or(key));
            }
        }
        for (_, shown) in of_section() {
            if let Shown::Table(table) = shown {
                text.push_str(table);
            }
        }
    }
    text
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}
