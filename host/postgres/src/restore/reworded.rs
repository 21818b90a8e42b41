//! Finds definitions that a server prints differently from the dump. PostgreSQL stores an expression as a tree and
//! prints it from there, so the text may change when it is parsed again. Such a change is reported, but it is not a
//! difference.

use super::{Filling, Server, conninfo, program_for};
use crate::program::{self, Program};
use base::error::{Error, Result};
use base::text::printable;
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of names in the message. A schema may have a thousand views.
const NAMED_MAX: usize = 20;

/// The line that ends the output of pg_dump.
const END: &str = "-- PostgreSQL database dump complete";

/// The beginning of the line that pg_dump writes before an object.
const HEAD: &str = "-- Name: ";

impl Server {
    /// One sentence about the definitions whose text differs between a database and the dump it was restored from.
    pub async fn reworded(&self, filled: Filling<'_>) -> String {
        match self.find_reworded(filled).await {
            Ok((_, 0)) => {
                "definitions were changed between the fingerprint and the dump; the restored ones match the dump"
                    .to_owned()
            }
            Ok((names, count)) => {
                let more = match count - names.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let names = names.join(", ");
                format!("PostgreSQL prints {count} definitions differently from the dump: {names}{more}")
            }
            Err(error) => format!(
                "PostgreSQL prints some definitions differently from the dump, but they could not be listed: {error}"
            ),
        }
    }

    /// The first of these definitions (name, kind and schema) and their total number.
    async fn find_reworded(&self, filled: Filling<'_>) -> Result<(Vec<String>, usize)> {
        let Filling { name: database, dump, origin, .. } = filled;
        let program = program_for(origin).await?;
        if program::major(&program.version.text).is_none_or(|major| major < self.major) {
            return Err(Error::config("the pg_dump that fits the dump is older than this server"));
        }
        let login = self.dialer.login().await?;
        let mut dumped = Program::command(&program.pg_restore());
        dumped.args(["--schema-only", "--no-owner", "--no-acl", "--file=-"]).arg(dump);
        let mut restored = Program::command(&program.pg_dump);
        self.dialer.set_environment(&mut restored, &login);
        restored.env("PGOPTIONS", "-c quote_all_identifiers=off");
        restored.args(["--schema-only", "--no-owner", "--no-acl", "--no-password"]);
        restored.arg(format!("--dbname={}", conninfo(database)));
        let (dumped, restored) = tokio::try_join!(output_of(dumped), output_of(restored))?;
        let (dumped, restored) = (definitions(&dumped), definitions(&restored));
        let names: BTreeSet<&&str> =
            dumped.keys().chain(restored.keys()).filter(|name| dumped.get(*name) != restored.get(*name)).collect();
        Ok((names.iter().take(NAMED_MAX).map(|name| printable(name)).collect(), names.len()))
    }
}

async fn output_of(mut command: tokio::process::Command) -> Result<String> {
    let output = command.output().await.map_err(|e| Error::config(format!("a program cannot be run: {}", e.kind())))?;
    if !output.status.success() {
        return Err(Error::unexpected(crate::dump::summarize(&String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a line is not part of a definition: a comment, a psql command, or a setting for the objects after it.
fn is_aside(line: &str) -> bool {
    line.is_empty() || line.starts_with("--") || line.starts_with('\\') || line.starts_with("SET default_")
}

/// The text below each head line, by the name, kind and schema in that line.
fn definitions(text: &str) -> BTreeMap<&str, String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(head) = line.strip_prefix(HEAD) {
            current = head.rsplit_once("; Owner:").map(|(name, _)| name);
        } else if line == END {
            break;
        } else if let Some(name) = current.filter(|_| !is_aside(line)) {
            let text = found.entry(name).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_definition_is_found_below_its_head_line() {
        let text = "--\n-- PostgreSQL database dump\n--\n\nSET x = 0;\n\n--\n-- Name: v; Type: VIEW; Schema: public; Owner: -\n--\n\nCREATE VIEW public.v AS\n SELECT 1;\n\n\n\
             --\n-- Name: odd; Owner: x; Type: TABLE; Schema: s; Owner: -\n--\n\nCREATE TABLE s.t ();\n\nSET default_tablespace = x;\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict a1b2\n";
        let found = definitions(text);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            [&"odd; Owner: x; Type: TABLE; Schema: s", &"v; Type: VIEW; Schema: public"]
        );
        assert_eq!(found["v; Type: VIEW; Schema: public"], "CREATE VIEW public.v AS\n SELECT 1;\n");
    }
}
