//! Commands on the state of a running exporter: it runs those that destroy nothing, and nobody has to stop it.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use cognito_auth_core::event::{AuthEvent, UnixMillis};
use serde_json::Value;
use tonic::Code;

use crate::exporter::{Exporter, Scrape};
use crate::outputs::{expecting, json_lines, stderr, stdout};
use crate::receiver::{Received, Reply};
use crate::test_env::{MINUTE, TestEnv, all_live, is, now, populate};

const POOL: &str = "eu-west-1_Control";

/// Three users with ten events each.
async fn env() -> TestEnv {
    TestEnv::set(&all_live(POOL), |world| populate(world, POOL, 3, 10)).await
}

fn is_poison(record: &Received) -> bool {
    record.text("aws.cognito.event.id") == "poison"
}

/// An exporter with all events delivered but one, which the receiver refuses and which is in quarantine.
async fn with_one_in_quarantine(env: &TestEnv) -> Exporter {
    env.simulation.world(|world| {
        let event = AuthEvent { id: Some("poison".into()), ..world.sign_in(UnixMillis(now().0 - MINUTE)) };
        world.arrive(POOL, "user-0", &event);
    });
    let refusal = Reply::Code(Code::InvalidArgument, "bad");
    env.receiver.answer_by(move |records| if records.iter().any(is_poison) { refusal.clone() } else { Reply::Ok });
    let exporter = env.exporter();
    exporter.until("one in quarantine", |scrape| {
        is(scrape, "cognito_exporter_quarantined_records", &[], 1.0)
            && is(scrape, "cognito_auth_events_total", &[], 31.0)
            && is(scrape, "cognito_exporter_outbox_records", &[], 0.0)
    });
    exporter
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_record_is_listed_and_delivered_while_the_exporter_runs() {
    let env = env().await;
    let exporter = with_one_in_quarantine(&env).await;
    let listed = json_lines(&expecting(0, env.run(&["quarantine", "list", "--output", "jsonl"])));
    let [record] = <[Value; 1]>::try_from(listed).unwrap();
    assert_eq!((&record["event_id"], record.get("username")), (&"poison".into(), None));
    let table = stdout(&expecting(0, env.run(&["quarantine", "list", "--personal"])));
    assert!(table.starts_with("Number") && table.contains("user-0"), "{table}");

    env.receiver.answer_always(Reply::Ok);
    let number = record["number"].to_string();
    let retried = expecting(0, env.run(&["quarantine", "retry", &number]));
    assert_eq!(stderr(&retried), "back in the outbox: 1 record\n");
    env.until_received(|records| records.iter().any(is_poison)).await;
    let counted = |scrape: &Scrape| {
        is(scrape, "cognito_exporter_quarantined_records", &[], 0.0)
            && is(scrape, "cognito_auth_events_total", &[], 31.0)
    };
    exporter.until("the quarantine empty, and nothing counted again", counted);
    let absent = expecting(1, env.run(&["quarantine", "retry", &number]));
    assert!(stderr(&absent).contains("not in quarantine"), "{}", stderr(&absent));
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_looked_at_and_verified_while_the_exporter_runs_and_says_what_it_says_when_it_is_stopped() {
    let env = env().await;
    let exporter = env.exporter();
    env.conserved(&exporter, &[POOL]).await;
    let show = |arguments: &[&str]| stdout(&expecting(0, env.run(arguments)));
    let user = ["state", "show", "--user-pool-id", POOL, "--username", "user-1", "--output", "json"];
    let looks: [&[&str]; 3] =
        [&["state", "list"], &["state", "list", "--user-pool-id", POOL, "--output", "jsonl"], &user];
    let running = looks.map(show);
    let verified = expecting(0, env.run(&["state", "verify"]));
    assert!(stderr(&verified).ends_with("every record is sound\n"), "{}", stderr(&verified));
    assert!(stdout(&verified).contains("user           3"), "{}", stdout(&verified));
    let unknown = expecting(1, env.run(&["state", "show", "--user-pool-id", "eu-west-1_Other"]));
    assert!(stderr(&unknown).contains("nothing is kept of a pool"), "{}", stderr(&unknown));
    assert!(exporter.stop().success());
    // What a later poll may have changed is not compared: when the user was last polled is in no record.
    assert_eq!(looks.map(show), running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_destroys_something_needs_a_stopped_exporter() {
    let env = env().await;
    let exporter = with_one_in_quarantine(&env).await;
    for arguments in [
        &["quarantine", "drop", "--all", "--yes"][..],
        &["state", "forget", "--user-pool-id", POOL, "--all", "--yes"],
        &["state", "rewind", "--user-pool-id", POOL, "--all", "--to", "2020-01-01T00:00:00Z", "--yes"],
        &["state", "export"],
    ] {
        let refused = expecting(1, env.run(arguments));
        assert!(stderr(&refused).contains("in use by another process: stop that one"), "{}", stderr(&refused));
    }
    assert_eq!(json_lines(&expecting(0, env.run(&["quarantine", "list", "--output", "jsonl"]))).len(), 1);
    assert!(exporter.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_the_users_own_and_one_that_a_killed_exporter_left_is_in_nobodys_way() {
    let env = env().await;
    let exporter = env.exporter();
    let socket = env.state().join("control.sock");
    let metadata = std::fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o077, 0, "nobody else may connect");
    exporter.kill();
    assert!(socket.exists());
    expecting(0, env.run(&["state", "list"]));
    let exporter = env.exporter();
    expecting(0, env.run(&["state", "list"]));
    assert!(exporter.stop().success());
    assert!(!socket.exists());
}
