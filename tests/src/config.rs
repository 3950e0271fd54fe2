//! presence.toml, written for one test: the parts a test names, and what every test needs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::profiles::ProfileService;
use crate::programs::{guest, shared_data, shipped_plugin};
use crate::webhook::Recorder;

/// A configuration in the making: both listeners on free ports, otherwise the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    listen: String,
    host: String,
    sections: String,
    data_dir: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config { listen: "127.0.0.1:0".into(), host: String::new(), sections: String::new(), data_dir: None }
    }
}

impl Config {
    /// Further lines of `[host]`.
    pub fn host(mut self, lines: &str) -> Config {
        self.host = format!("{}{lines}\n", self.host);
        self
    }

    /// Where clients are to be listened to.
    pub fn listen(mut self, address: &str) -> Config {
        self.listen = address.to_owned();
        self
    }

    /// A `data_dir` of its own instead of the one that all tests share.
    pub fn data_dir(mut self, folder: &Path) -> Config {
        self.data_dir = Some(folder.to_owned());
        self
    }

    /// Where the plugins' keys are kept in a file, which belongs to one host, that is below this folder.
    pub(crate) fn placed(self, folder: &Path) -> Config {
        let keeps = self.sections.contains("keyvalue = [\"") && !self.sections.contains("store = \"nats\"");
        if keeps && self.data_dir.is_none() { self.data_dir(&folder.join("data")) } else { self }
    }

    /// Lines of `[presence]`; at most once.
    pub fn presence(self, lines: &str) -> Config {
        self.section(format!("[presence]\n{lines}"))
    }

    /// Any other sections: text, or a [`Plugin`].
    pub fn section(mut self, section: impl Into<String>) -> Config {
        self.sections = format!("{}\n{}\n", self.sections, section.into());
        self
    }

    /// The whole file.
    pub fn render(&self) -> String {
        let data = quoted(&self.data_dir.clone().unwrap_or_else(shared_data));
        format!(
            "[host]\nlisten = \"{}\"\nadmin = \"127.0.0.1:0\"\ndata_dir = {data}\n{}{}",
            self.listen, self.host, self.sections
        )
    }
}

/// A `[[plugin]]` section: quick retries, otherwise the defaults.
#[derive(Clone, Debug)]
pub struct Plugin {
    name: String,
    path: PathBuf,
    config: String,
    /// Lines before the grants.
    further: String,
    origins: Vec<String>,
    interval: String,
    grants: String,
    delivery: String,
    limits: String,
}

impl Plugin {
    /// The file under this name.
    pub fn at(name: &str, path: impl Into<PathBuf>) -> Plugin {
        Plugin {
            name: name.to_owned(),
            path: path.into(),
            config: "{}".to_owned(),
            further: String::new(),
            origins: Vec::new(),
            interval: String::new(),
            grants: String::new(),
            delivery: "backoff = \"20ms\"\nmax_backoff = \"200ms\"\n".to_owned(),
            limits: String::new(),
        }
    }

    /// The shipped profile-updater, sending to this service.
    pub fn profile_updater(profiles: &ProfileService) -> Plugin {
        Plugin::at("profile-updater", shipped_plugin("profile-updater"))
            .config(&format!("{{ url = \"{}\" }}", profiles.url()))
            .may_reach(profiles.origin())
    }

    /// The shipped webhook, sending to this recorder.
    pub fn webhook(recorder: &Recorder) -> Plugin {
        Plugin::at("webhook", shipped_plugin("webhook"))
            .config(&format!("{{ url = \"{}\", secret = \"{}\" }}", recorder.url(), Recorder::SECRET))
            .may_reach(recorder.origin())
    }

    /// The guest that does harm: this rule, such as `act = "trap"`, says what and when (see tests/guests/hostile).
    pub fn hostile(rule: &str) -> Plugin {
        Plugin::at("hostile", guest("guest-hostile")).config(&format!("{{ rules = [{{ {rule} }}] }}"))
    }

    /// The guest that publishes, looks up and ticks (see tests/guests/courier).
    pub fn courier(name: &str) -> Plugin {
        Plugin::at(name, guest("guest-courier"))
    }

    /// Its `config`, as an inline table.
    pub fn config(mut self, table: &str) -> Plugin {
        self.config = table.to_owned();
        self
    }

    /// A grant for one origin.
    pub fn may_reach(mut self, origin: impl Into<String>) -> Plugin {
        self.origins.push(origin.into());
        self
    }

    /// How often it ticks.
    pub fn interval(mut self, interval: &str) -> Plugin {
        self.interval = format!("interval = \"{interval}\"\n");
        self
    }

    /// More lines of `[plugin.grants]`.
    pub fn grants(mut self, lines: &str) -> Plugin {
        self.grants = format!("{lines}\n");
        self
    }

    /// Its `secrets`, as an inline table.
    pub fn secrets(mut self, table: &str) -> Plugin {
        self.further = format!("{}secrets = {table}\n", self.further);
        self
    }

    /// The digest that its file must have.
    pub fn pinned(mut self, sha256: &str) -> Plugin {
        self.further = format!("{}sha256 = \"{sha256}\"\n", self.further);
        self
    }

    /// The lines of `[plugin.delivery]`, in place of quick retries.
    pub fn delivery(mut self, lines: &str) -> Plugin {
        self.delivery = format!("{lines}\n");
        self
    }

    /// The lines of `[plugin.limits]`.
    pub fn limits(mut self, lines: &str) -> Plugin {
        self.limits = format!("{lines}\n");
        self
    }
}

impl From<Plugin> for String {
    fn from(plugin: Plugin) -> String {
        let mut text = format!("[[plugin]]\nname = \"{}\"\npath = {}\n", plugin.name, quoted(&plugin.path));
        let origins: Vec<String> = plugin.origins.iter().map(|origin| format!("\"{origin}\"")).collect();
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "config = {}\n{}{}[plugin.grants]\nhttp = [{}]\n{}[plugin.limits]\n{}[plugin.delivery]\n{}",
            plugin.config,
            plugin.interval,
            plugin.further,
            origins.join(", "),
            plugin.grants,
            plugin.limits,
            plugin.delivery
        );
        text
    }
}

/// A path as a TOML string, with dollars that are meant as such.
fn quoted(path: &Path) -> String {
    let text = path.to_str().expect("paths of tests are UTF-8");
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$"))
}
