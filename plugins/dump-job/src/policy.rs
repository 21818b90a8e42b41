//! Decides which options a Job's backup gets, and whether every required Secret is lent.

use crate::settings::Settings;

/// What the user requested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// Dump every source.
    pub force: bool,
    /// Write nothing to the store.
    pub dry_run: bool,
    /// Print one JSON object at the end of the log.
    pub json: bool,
}

/// The options for `backup` in the Job.
pub fn options(settings: &Settings, request: Request) -> Vec<String> {
    [("--force", request.force || settings.force), ("--dry-run", request.dry_run), ("--json", request.json)]
        .into_iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(option, _)| option.to_owned())
        .collect()
}

/// The required places for which no Secret is lent.
pub fn missing<'a>(settings: &'a Settings, lent: &[&str]) -> Vec<&'a str> {
    settings.secrets.iter().map(String::as_str).filter(|place| !lent.contains(place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_gets_the_requested_options_and_those_of_the_settings() {
        let forced = Settings { force: true, ..Settings::default() };
        let all = Request { force: true, dry_run: true, json: true };
        let none: [&str; 0] = [];
        assert_eq!(options(&Settings::default(), Request::default()), none);
        assert_eq!(options(&forced, Request::default()), ["--force"]);
        assert_eq!(options(&forced, all), ["--force", "--dry-run", "--json"]);
    }

    #[test]
    fn a_required_place_without_a_secret_is_returned() {
        let settings = Settings { secrets: vec!["s3".into(), "db".into()], ..Settings::default() };
        assert_eq!(missing(&settings, &["s3", "other"]), ["db"]);
        assert!(missing(&Settings::default(), &[]).is_empty());
    }
}
