//! Which of the open questions one `accept` answers: those that `--only` names, or those that a flag is about.

use super::Arguments;
use base::error::{Class, Error, Result};
use catalogue::environment::EnvironmentFile;
use catalogue::questions::{self, Names, Question, QuestionKind};
use std::collections::BTreeSet;

/// The full names of the questions that `--only` names; `None` without `--only`. `nothing` begins the error message
/// about a name that matches no question.
pub(super) fn only(names: &Names<'_>, named: &[String], nothing: &str) -> Result<Option<BTreeSet<String>>> {
    let mut only = BTreeSet::new();
    for name in named {
        only.extend(names.meant(name).map_err(|known| {
            let shown = base::text::printable(name);
            let several = known.iter().any(|known| known.ends_with(&format!(":{name}")));
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            let message = match several {
                true => format!("there are several questions about `{shown}`"),
                false => format!("{nothing} `{shown}`"),
            };
            Error::new(Class::Usage, message)
                .hint(format!("use one of these with --only: {known}; `status` shows the open questions"))
        })?);
    }
    Ok((!only.is_empty()).then_some(only))
}

/// The questions that a flag answers. It answers no others, because the user asked only about these. `None` without a
/// flag.
pub(super) fn implied(arguments: &Arguments, waiting: &[Question], file: &EnvironmentFile) -> Option<BTreeSet<String>> {
    let Arguments { retire, lost, adopted, .. } = arguments;
    if retire.is_empty() && !lost && !adopted {
        return None;
    }
    let is_meant = |question: &&Question| match question.kind {
        // A renamed source is a gone one and a new one. A source of another kind is a different question.
        QuestionKind::GoneSource => !retire.is_empty(),
        QuestionKind::NewSource => {
            let is_new = |source: &String| !file.sources.contains_key(source);
            !retire.is_empty() && question.source.as_ref().is_some_and(is_new)
        }
        QuestionKind::Lost
        | QuestionKind::DamagedRecord
        | QuestionKind::MissingRecord
        | QuestionKind::ChangedRecord => *lost,
        _ => false,
    };
    let disproved = lost.then(|| questions::DISPROVED.to_owned());
    Some(waiting.iter().filter(is_meant).map(Question::name).chain(disproved).collect())
}

/// Adds the questions about the sources to retire.
pub(super) fn with_retired(mut only: BTreeSet<String>, retire: &BTreeSet<String>) -> BTreeSet<String> {
    only.extend(retire.iter().map(|source| questions::question_name(QuestionKind::GoneSource.name(), Some(source))));
    only
}
