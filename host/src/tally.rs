//! The record of a plugin and its calls.

use catalogue::record::{PluginRecord, TallyRecord};
use plugin::Plugin;
use plugin::context::Tally;

/// Makes the record of a plugin.
pub fn plugin_record(plugin: &Plugin, tally: &Tally) -> PluginRecord {
    let count = |((function, scope), count): (&(&'static str, String), &plugin::context::Count)| TallyRecord {
        function: (*function).to_owned(),
        scope: scope.clone(),
        calls: count.calls,
        items: count.items,
        bytes: count.bytes,
    };
    PluginRecord {
        name: plugin.role().name().to_owned(),
        component: plugin.component().to_string(),
        sha256: plugin.digest().to_owned(),
        grants: plugin.grants().iter().map(|grant| grant.to_string()).collect(),
        settings_sha256: Some(plugin.settings_sha256()),
        tally: tally.iter().map(count).collect(),
    }
}
