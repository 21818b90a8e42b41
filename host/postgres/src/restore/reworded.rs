//! Which definitions a server prints otherwise than the dump has them. PostgreSQL keeps an expression as a tree and prints it anew, and
//! what was read once more is now and then worded in another way: that is to be known, and no difference.

use super::{Server, conninfo, program_for};
use crate::Origin;
use crate::program::{self, Program};
use base::error::{Error, Result};
use base::text::printable;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Names that reach people; a schema of a thousand views has a thousand.
const NAMED_MAX: usize = 20;

/// How pg_dump closes.
const END: &str = "-- PostgreSQL database dump complete";

/// How pg_dump introduces an object.
const HEAD: &str = "-- Name: ";

impl Server {
    /// Which definitions are worded otherwise in a database than in the dump that it was restored from, in one sentence.
    pub async fn reworded(&self, database: &str, dump: &Path, origin: &Origin) -> String {
        match self.find_reworded(database, dump, origin).await {
            Ok((_, 0)) => {
                "definitions were changed between the fingerprint and the dump; they are as the dump has them"
                    .to_owned()
            }
            Ok((names, count)) => {
                let more = match count - names.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let names = names.join(", ");
                format!("PostgreSQL words {count} definitions in another way than the dump has them: {names}{more}")
            }
            Err(error) => format!(
                "PostgreSQL words some definitions in another way than the dump has them; which ones cannot be told: {error}"
            ),
        }
    }

    /// The first of them by name, kind and schema, and how many there are.
    async fn find_reworded(&self, database: &str, dump: &Path, origin: &Origin) -> Result<(Vec<String>, usize)> {
        let program = program_for(origin).await?;
        if program::major(&program.version.text).is_none_or(|major| major < self.major) {
            return Err(Error::config("the pg_dump of the dump is older than this server"));
        }
        let login = self.dialer.login().await?;
        let mut then = Program::command(&program.pg_restore());
        then.args(["--schema-only", "--no-owner", "--no-acl", "--file=-"]).arg(dump);
        let mut now = Program::command(&program.pg_dump);
        self.dialer.by_environment(&mut now, &login);
        now.env("PGOPTIONS", "-c quote_all_identifiers=off");
        now.args(["--schema-only", "--no-owner", "--no-acl", "--no-password"]);
        now.arg(format!("--dbname={}", conninfo(database)));
        let (then, now) = tokio::try_join!(text_of(then), text_of(now))?;
        let (then, now) = (definitions(&then), definitions(&now));
        let names: BTreeSet<&&str> =
            then.keys().chain(now.keys()).filter(|name| then.get(*name) != now.get(*name)).collect();
        Ok((names.iter().take(NAMED_MAX).map(|name| printable(name)).collect(), names.len()))
    }
}

async fn text_of(mut command: tokio::process::Command) -> Result<String> {
    let output = command.output().await.map_err(|e| Error::config(format!("a program cannot be run: {}", e.kind())))?;
    if !output.status.success() {
        return Err(Error::unexpected(crate::dump::gist(&String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a line defines nothing: a comment, a command of psql, or a setting for the objects after it.
fn is_aside(line: &str) -> bool {
    line.is_empty() || line.starts_with("--") || line.starts_with('\\') || line.starts_with("SET default_")
}

/// What stands below each head, by its name, kind and schema.
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
    fn each_definition_is_found_below_its_head() {
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
