//! Ctrl-C while a terminal follows a Job: the program asks, and the user answers.

use super::Laptop;
use serde_json::Value;
use std::time::{Duration, Instant};
use tests::binary::{CTRL_C, Outcome, Terminal};

/// The end of the question.
const QUESTION: &str = "[s/l/f] ";

/// How long the program waits for an answer, as the question says.
const ANSWER_SECONDS: u64 = 30;

/// Starts a backup in a terminal that follows its running pod.
fn followed(laptop: &Laptop) -> (Terminal, Value) {
    let mut terminal = laptop.command(["backup", "--env", "prod"]).start_in_terminal();
    let pod = laptop.kubelet.pod_of(&laptop.namespace);
    laptop.kubelet.bind(&pod);
    laptop.kubelet.run(&pod, &["dumping"]);
    terminal.wait_for("dumping", 1);
    (terminal, pod)
}

fn interrupted(outcome: Outcome, says: &str) -> Outcome {
    let outcome = outcome.expect_code(130);
    assert!(outcome.stdout.contains(says), "`{says}` is not in {}", outcome.stdout);
    outcome
}

/// Removes the deleted pod as its node would, and waits until nothing is left.
fn clear(laptop: &Laptop, pod: &Value) {
    let name = pod["metadata"]["name"].as_str().unwrap();
    laptop.cluster.wait("deletion of the pod", || {
        let pods = laptop.cluster.list("pods", &laptop.namespace);
        pods.iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null()).then_some(())
    });
    let delete = ["delete", "pod", name, "--namespace", &laptop.namespace, "--grace-period=0", "--force"];
    drop(laptop.cluster.try_kubectl(&delete, ""));
    laptop.assert_nothing_is_left();
}

#[test]
fn whoever_presses_ctrl_c_is_asked_and_may_follow_further_or_leave_the_job() {
    let Some(laptop) = Laptop::new() else { return };
    let (mut terminal, pod) = followed(&laptop);
    terminal.press(CTRL_C);
    terminal.wait_for(QUESTION, 1);
    let asked = terminal.shown();
    let job = laptop.jobs().remove(0);
    for says in
        ["stop it and clean up", "leave it running", &format!("logs --follow job/{job}"), "continue following it"]
    {
        assert!(asked.contains(says), "`{says}` is not in {asked}");
    }

    // Output that the Job writes meanwhile does not hide the question.
    laptop.kubelet.run(&pod, &["dumping", "hashing"]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(terminal.shown().ends_with(QUESTION), "{}", terminal.shown());
    terminal.press("what?\n");
    terminal.wait_for("answer s, l or f: ", 1);
    terminal.press("f\n");
    terminal.wait_for("hashing", 1);
    assert_eq!(laptop.jobs(), [job.as_str()]);

    terminal.press(CTRL_C);
    terminal.wait_for(QUESTION, 2);
    terminal.press("l\n");
    let _ = interrupted(terminal.finish(), "keeps running");
    assert_eq!(laptop.jobs(), [job.as_str()], "the Job keeps running");
    assert_eq!(laptop.secrets().len(), 1, "the Job keeps its Secret");
    laptop.kubelet.end(&pod, 0, "Completed", &["dumping", "hashing"]);
    let shorter = r#"{"spec": {"ttlSecondsAfterFinished": 1}}"#;
    let patch = ["patch", "job", &job, "--namespace", &laptop.namespace, "--type=merge", "--patch", shorter];
    laptop.cluster.kubectl(&patch, "");
    laptop.assert_nothing_is_left();
}

#[test]
fn a_job_that_ends_while_the_question_stands_is_the_answer() {
    let Some(laptop) = Laptop::new() else { return };
    let (mut terminal, pod) = followed(&laptop);
    terminal.press(CTRL_C);
    terminal.wait_for(QUESTION, 1);
    laptop.kubelet.end(&pod, 0, "Completed", &["dumping", "committed"]);
    let outcome = terminal.finish().expect_code(0);
    for says in ["committed", "ended with 0 (Completed)"] {
        assert!(outcome.stdout.contains(says), "`{says}` is not in {}", outcome.stdout);
    }
    laptop.assert_nothing_is_left();
}

#[test]
fn an_answer_a_second_ctrl_c_and_silence_all_stop_the_job() {
    let Some(laptop) = Laptop::new() else { return };
    for keys in ["s\n", CTRL_C] {
        let (mut terminal, pod) = followed(&laptop);
        terminal.press(CTRL_C);
        terminal.wait_for(QUESTION, 1);
        terminal.press(keys);
        let _ = interrupted(terminal.finish(), "was stopped");
        clear(&laptop, &pod);
    }
    let (mut terminal, pod) = followed(&laptop);
    terminal.press(CTRL_C);
    terminal.wait_for(QUESTION, 1);
    let since = Instant::now();
    let outcome = interrupted(terminal.finish(), "was stopped");
    assert!(outcome.stdout.contains(&format!("no answer within {ANSWER_SECONDS} s")), "{}", outcome.stdout);
    assert!(since.elapsed() >= Duration::from_secs(ANSWER_SECONDS - 1), "{:?}", since.elapsed());
    clear(&laptop, &pod);
}

#[test]
fn nobody_is_asked_who_said_so_in_advance() {
    let Some(laptop) = Laptop::new() else { return };
    let leaving = ["backup", "--env", "prod", "--leave-on-interrupt"];
    let mut terminal = laptop.command(leaving).start_in_terminal();
    let pod = laptop.kubelet.pod_of(&laptop.namespace);
    laptop.kubelet.bind(&pod);
    laptop.kubelet.run(&pod, &["dumping"]);
    terminal.wait_for("dumping", 1);
    terminal.press(CTRL_C);
    let outcome = interrupted(terminal.finish(), "keeps running");
    assert!(!outcome.stdout.contains(QUESTION), "{}", outcome.stdout);
    assert_eq!(laptop.jobs().len(), 1);
}
