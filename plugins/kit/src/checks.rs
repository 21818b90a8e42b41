//! Checks for the tests of a plugin's settings. They panic with the difference.

use crate::PluginSettings;
use serde_json::{Map, Value, json};
use std::fmt::Debug;

/// Checks that the schema names exactly the settings, with their defaults and these limits, and allows no others; that
/// empty settings are the defaults; and that the defaults are valid when they are written out.
///
/// # Panics
///
/// If it does not.
pub fn settings_and_schema_agree<T: PluginSettings + Debug + PartialEq>(maxima: &[(&str, u64)]) {
    let schema: Value = serde_json::from_str(T::SCHEMA).expect("the schema is JSON");
    let properties = schema["properties"].as_object().expect("the schema has properties");
    let documented: Map<_, _> =
        properties.iter().map(|(name, property)| (name.clone(), property["default"].clone())).collect();
    let defaults = serde_json::to_value(T::default()).expect("settings are JSON");
    for json in ["", " ", "{}", &defaults.to_string()] {
        assert_eq!(T::parse(json), Ok(T::default()), "these settings are not the defaults: {json:?}");
    }
    assert_eq!(Value::Object(documented), defaults);
    assert_eq!(schema["additionalProperties"], json!(false));
    for (name, max) in maxima {
        assert_eq!(properties[*name]["maximum"], json!(max), "{name}");
    }
}

/// Checks that each JSON text is refused with one sentence that contains the second text of its pair.
///
/// # Panics
///
/// If one is accepted, or refused in other words.
pub fn refused<T: PluginSettings + Debug>(cases: &[(&str, &str)]) {
    for (json, part) in [("null", "")].iter().chain(cases) {
        let sentence = T::parse(json).expect_err(json);
        assert!(sentence.starts_with(&format!("{} settings: ", T::PLUGIN)), "{json}: {sentence}");
        assert!(sentence.contains(part) && !sentence.contains('\n'), "{json}: {sentence}");
        assert!(!sentence.contains(" line "), "{json}: {sentence}");
    }
}
