//! What every plugin in Rust needs: reading the settings with one sentence for each invalid value, and the message of
//! a panic. It has no imports of its own, so it adds nothing to what a plugin may do.

pub mod checks;
pub mod dolibarr;
pub mod panics;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The settings of a plugin, which the host passes as JSON text.
pub trait PluginSettings: Default + Serialize + DeserializeOwned {
    /// The name that every message begins with.
    const PLUGIN: &'static str;

    /// The JSON Schema that the host shows and checks. [`checks::settings_and_schema_agree`] compares it with the code.
    const SCHEMA: &'static str;

    /// Why values that have the right types are invalid: one lowercase sentence that names the setting.
    fn objection(&self) -> Option<String>;

    /// Reads the JSON text. An empty text means the defaults.
    ///
    /// # Errors
    ///
    /// One lowercase sentence for the operator.
    fn parse(json: &str) -> Result<Self, String> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let refusal = |why: String| format!("{} settings: {why}", Self::PLUGIN);
        let settings: Self = serde_json::from_str(json).map_err(|error| refusal(without_position(&error)))?;
        match settings.objection() {
            Some(objection) => Err(refusal(objection)),
            None => Ok(settings),
        }
    }
}

/// The error without its line and column. They refer to the host's JSON; the administrator wrote TOML.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.to_owned())
}
