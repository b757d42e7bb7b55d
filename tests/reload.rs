//! The configuration of a running exporter. A change takes effect as a whole, without a restart, and no event is
//! counted twice or lost by it.

use std::os::unix::fs::symlink;

use cognito_auth_core::event::UnixMillis;
use cognito_auth_simulator::world::{SimulatedPool, World};

use crate::exporter::{self, Exporter};
use crate::test_env::{MINUTE, TestEnv, is, now, of, said, sign_ins};

const FIRST: &str = "eu-west-1_First";
const SECOND: &str = "eu-west-1_Second";

const SUCCESSFUL: &str = "cognito_exporter_config_last_reload_successful";
const SUCCESS: &str = "cognito_exporter_config_last_reload_success_timestamp_seconds";

/// The fastest polling, with every event counted.
fn poll(more: &str) -> String {
    format!("[poll]\nrequests_per_second = 500\nmin_interval = \"1s\"\nfirst_run = \"none\"\n{more}\n")
}

fn following(id: &str, users: &[&str]) -> String {
    // Everything is live, whenever a pool is followed.
    format!("[[pools]]\nid = {id:?}\nusernames = {users:?}\nfollowed_since = \"1970-01-01T00:00:00Z\"\n")
}

fn people(world: &mut World) {
    for pool in [FIRST, SECOND] {
        world.add_pool(SimulatedPool::new(pool));
        for user in ["ann", "ben", "cat"] {
            world.add_user(pool, user);
            sign_ins(world, pool, user, 5, UnixMillis(now().0 - MINUTE));
        }
    }
}

/// Makes the exporter read the configuration again, and waits until it has.
fn reload(env: &TestEnv, exporter: &Exporter, config: &str) -> String {
    env.reconfigure(config);
    reload_what_is_there(exporter)
}

fn reload_what_is_there(exporter: &Exporter) -> String {
    let before = said(&exporter.log(), &["configuration reload"]).len();
    exporter.signal("HUP");
    exporter.until("a reload", |_| said(&exporter.log(), &["configuration reload"]).len() > before);
    said(&exporter.log(), &["configuration reload"]).pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_added_is_followed_and_one_that_is_removed_is_neither_polled_nor_shown() {
    let all = ["ann", "ben", "cat"];
    let env = TestEnv::set(&(following(FIRST, &all) + &poll("")), people).await;
    let exporter = env.exporter();
    env.until_polled(FIRST, "ann", 2).await;
    let told = reload(&env, &exporter, &(following(FIRST, &all) + &following(SECOND, &all) + &poll("")));
    assert!(told.contains("pools added: 1"), "{told}");
    env.until_polled(SECOND, "cat", 2).await;
    env.conserved(&exporter, &[FIRST, SECOND]).await;
    let told = reload(&env, &exporter, &(following(SECOND, &all) + &poll("")));
    assert!(told.contains("pools removed: 1"), "{told}");
    env.forget_calls();
    let scrape = exporter.scrape();
    assert_eq!(scrape.count("cognito_auth_events_total", &[&of(FIRST)]), 0);
    assert_eq!(scrape.count("cognito_exporter_users", &[&of(FIRST)]), 0);
    env.until_polled(SECOND, "ann", 3).await;
    assert!(env.polled(FIRST).is_empty());
    assert!(!exporter.get("/status").contains(FIRST));
    // Events of the meantime are found when the pool is followed again, and its totals continue.
    env.simulation.world(|world| sign_ins(world, FIRST, "ben", 3, now()));
    reload(&env, &exporter, &(following(SECOND, &all) + &following(FIRST, &all) + &poll("")));
    env.conserved(&exporter, &[FIRST, SECOND]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_pool_is_shown_at_0_and_polled_after_its_first_scrape() {
    let all = ["ann", "ben", "cat"];
    let env = TestEnv::set(&(following(FIRST, &all) + &poll("")), people).await;
    let exporter = env.exporter();
    env.reconfigure(&(following(FIRST, &all) + &following(SECOND, &all) + &poll("")));
    let waiting = std::fs::read_to_string(env.config()).unwrap().replace("\"0s\"", "\"1h\"");
    std::fs::write(env.config(), waiting).unwrap();
    exporter.signal("HUP");
    exporter.until_said("pools added: 1");
    env.until_polled(FIRST, "ann", 3).await;
    assert!(env.polled(SECOND).is_empty(), "nobody has seen its zeros");
    let scrape = exporter.scrape();
    assert!(is(&scrape, "cognito_auth_events_total", &[&of(SECOND)], 0.0));
    env.until_polled(SECOND, "ann", 1).await;
    env.conserved(&exporter, &[FIRST, SECOND]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_before_the_first_scrape_does_not_end_the_wait_for_it() {
    let env = TestEnv::set(&(following(FIRST, &["ann"]) + &poll("")), people).await;
    let wait = |overlap: &str| {
        env.reconfigure(&(following(FIRST, &["ann"]) + &poll(overlap)));
        let waiting = std::fs::read_to_string(env.config()).unwrap().replace("\"0s\"", "\"1h\"");
        std::fs::write(env.config(), waiting).unwrap();
    };
    wait("");
    let exporter = Exporter::start(env.config(), &env.simulation.url());
    // The second change shows the events of the users that are followed anew.
    for (overlap, times) in [("overlap = \"2h\"", 2), ("overlap = \"3h\"", 3)] {
        wait(overlap);
        let described = |world: &World| world.calls().count("DescribeUserPool") >= times;
        env.until("it to be followed anew", described).await;
    }
    assert!(env.polled(FIRST).is_empty(), "nobody has seen its zeros");
    exporter.until("her sign-ins", |scrape| scrape.sum("cognito_auth_events_total", &[]) > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_the_first_scrape_that_is_no_longer_wanted_ends_at_once() {
    let env = TestEnv::set(&(following(FIRST, &["ann"]) + &poll("")), people).await;
    let at_once = std::fs::read_to_string(env.config()).unwrap();
    std::fs::write(env.config(), at_once.replace("\"0s\"", "\"1h\"")).unwrap();
    let exporter = Exporter::start(env.config(), &env.simulation.url());
    exporter.until_said("waiting for the first scrape of /metrics");
    std::fs::write(env.config(), at_once).unwrap();
    exporter.signal("HUP");
    exporter.until_said("configuration reloaded");
    env.until_polled(FIRST, "ann", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_join_and_leave_without_the_others_noticing() {
    let env = TestEnv::set(&(following(FIRST, &["ann", "ben"]) + &poll("")), people).await;
    let exporter = env.exporter();
    env.until_polled(FIRST, "ben", 2).await;
    let told = reload(&env, &exporter, &(following(FIRST, &["ann", "cat"]) + &poll("")));
    assert!(told.contains("pools changed: 1"), "{told}");
    env.until_polled(FIRST, "cat", 2).await;
    exporter.until("two users", |scrape| is(scrape, "cognito_exporter_users", &["state=\"ok\""], 2.0));
    env.forget_calls();
    env.until_polled(FIRST, "ann", 3).await;
    assert!(!env.polled(FIRST).contains("ben"));
    assert!(said(&exporter.log(), &["continuing with the stored users"]).is_empty(), "nobody was followed anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_changes_nothing_and_is_told_and_so_is_its_end() {
    let good = following(FIRST, &["ann"]) + &poll("");
    let env = TestEnv::set(&good, people).await;
    let exporter = env.exporter();
    let scrape = exporter.scrape();
    assert!(is(&scrape, SUCCESSFUL, &[], 1.0));
    let loaded = scrape.sum(SUCCESS, &[]);
    let told = reload(&env, &exporter, &(following(SECOND, &["ann"]) + &poll("overlapp = \"1h\"\npage_size = 61")));
    for part in
        ["ERROR", "poll.overlapp; did you mean poll.overlap?", "poll.page_size is 61", "keeping the current one"]
    {
        assert!(told.contains(part), "{told}");
    }
    let scrape = exporter.scrape();
    assert!(is(&scrape, SUCCESSFUL, &[], 0.0));
    assert!((scrape.sum(SUCCESS, &[]) - loaded).abs() < 0.001);
    env.until_polled(FIRST, "ann", 2).await;
    assert!(env.polled(SECOND).is_empty());
    reload(&env, &exporter, &good);
    let scrape = exporter.scrape();
    assert!(is(&scrape, SUCCESSFUL, &[], 1.0) && scrape.sum(SUCCESS, &[]) > loaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_for_what_the_file_names_comes_into_force_when_that_is_there_and_is_told_once() {
    let env = TestEnv::set(&(following(FIRST, &["ann"]) + &poll("")), people).await;
    let web = env.path("web.yml");
    std::fs::write(&web, "{}\n").unwrap();
    let mut command = env.command();
    command.env("COGNITO_EXPORTER_HTTP__WEB_CONFIG_FILE", &web);
    let exporter = Exporter::started(command);
    std::fs::write(&web, "no_such_key: 1\n").unwrap();
    let told = reload(&env, &exporter, &(following(FIRST, &["ann", "ben"]) + &poll("")));
    assert!(told.contains("web.yml") && told.contains("keeping the current one"), "{told}");
    assert!(is(&exporter.scrape(), SUCCESSFUL, &[], 0.0));
    std::fs::write(web, "{}\n").unwrap();
    exporter.until_said("it failed before");
    env.until_polled(FIRST, "ben", 1).await;
    assert!(is(&exporter.scrape(), SUCCESSFUL, &[], 1.0));
    assert_eq!(said(&exporter.log(), &["keeping the current one"]).len(), 1, "{}", exporter.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_in_one_line_and_nothing_of_the_rest_is_done() {
    let env = TestEnv::set(&(following(FIRST, &["ann"]) + &poll("")), people).await;
    let exporter = env.exporter();
    let text = following(SECOND, &["ann"])
        + &poll("")
        + "[stdout]\nenabled = true\n[log]\nformat = \"json\"\n"
        + "[privacy]\nip_address = \"truncate\"\n";
    let told = reload(&env, &exporter, &text);
    assert!(told.contains("stdout.enabled, [privacy], log.format can be changed by a restart only"), "{told}");
    env.until_polled(FIRST, "ann", 2).await;
    assert!(env.polled(SECOND).is_empty());
    assert!(is(&exporter.scrape(), SUCCESSFUL, &[], 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_has_changed_is_read_without_a_signal() {
    let env = TestEnv::set(&(following(FIRST, &["ann"]) + &poll("")), people).await;
    let exporter = env.exporter();
    env.until_polled(FIRST, "ann", 1).await;
    env.reconfigure(&(following(FIRST, &["ann", "ben"]) + &poll("")));
    exporter.until_said("the file has changed");
    env.until_polled(FIRST, "ben", 1).await;
    let reloads = said(&exporter.log(), &["configuration reload"]).len();
    assert_eq!(reloads, 1, "{}", exporter.log());
}

/// A ConfigMap's volume in a pod: the file leads through a link to a directory, and a change replaces that link.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_that_has_changed_is_read_without_a_signal() {
    let env = TestEnv::set(&(following(FIRST, &["ann"]) + &poll("")), people).await;
    let volume = env.path("volume");
    let version = |name: &str| {
        std::fs::create_dir_all(volume.join(name)).unwrap();
        std::fs::copy(env.config(), volume.join(name).join("config.toml")).unwrap();
        symlink(name, volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    version("..first");
    symlink("..data/config.toml", volume.join("config.toml")).unwrap();
    let mut command = exporter::command(&env.simulation.url());
    command.arg("run").arg("--config").arg(volume.join("config.toml"));
    let exporter = Exporter::started(command);
    env.until_polled(FIRST, "ann", 1).await;
    env.reconfigure(&(following(FIRST, &["ann", "ben"]) + &poll("")));
    version("..second");
    std::fs::remove_dir_all(volume.join("..first")).unwrap();
    exporter.until_said("the file has changed");
    env.until_polled(FIRST, "ben", 1).await;
    assert_eq!(said(&exporter.log(), &["configuration reload"]).len(), 1, "{}", exporter.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_the_log_changes_at_once() {
    let text = following(FIRST, &["ann"]) + &poll("");
    let env = TestEnv::set(&text, people).await;
    let exporter = env.exporter();
    let loaded = exporter.scrape().sum(SUCCESS, &[]);
    env.reconfigure(&(text.clone() + "[log]\nlevel = \"error\"\n"));
    exporter.signal("HUP");
    exporter.until("a reload", |scrape| scrape.sum(SUCCESS, &[]) > loaded);
    let told = reload(&env, &exporter, &text);
    assert!(told.contains("INFO"));
    assert_eq!(said(&exporter.log(), &["configuration reload"]).len(), 1, "{}", exporter.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_a_share_of_the_limit_goes_on_when_the_pool_that_asked_for_the_limit_leaves() {
    let all = ["ann", "ben", "cat"];
    let share = poll("").replace("500", "\"100%\"");
    let env = TestEnv::set(&(following(FIRST, &all) + &following(SECOND, &all) + &share), people).await;
    let exporter = env.exporter();
    env.until_polled(SECOND, "ann", 1).await;
    for pool in [SECOND, FIRST] {
        let told = reload(&env, &exporter, &(following(pool, &all) + &share));
        assert!(told.contains("pools removed: 1") && told.contains("anew"), "{told}");
        env.until_polled(pool, "ann", 2).await;
    }
    env.conserved(&exporter, &[FIRST]).await;
}

/// Every kind of change, repeatedly, while events arrive.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_or_counted_twice_while_everything_changes() {
    let all = ["ann", "ben", "cat"];
    let both = following(FIRST, &all) + &following(SECOND, &all);
    let env = TestEnv::set(&(both.clone() + &poll("")), people).await;
    let exporter = env.exporter();
    let changes = [
        poll("overlap = \"2h\""),
        poll("concurrency = 2"),
        poll("").replace("500", "300"),
        poll("max_interval = \"10s\"\npage_size = 3"),
        poll("") + "[discovery]\ninterval = \"10s\"\n",
    ];
    for round in 0..3 {
        for change in &changes {
            env.simulation.world(|world| {
                for user in all {
                    sign_ins(world, FIRST, user, 4, now());
                    sign_ins(world, SECOND, user, 2, now());
                }
            });
            let pools = match round {
                0 => both.clone(),
                1 => both.replace("Second\"\n", "Second\"\nname = \"other\"\n"),
                _ => following(SECOND, &all[..2]) + &following(FIRST, &all),
            };
            let told = reload(&env, &exporter, &(pools + change));
            assert!(told.contains("configuration reloaded"), "{told}");
        }
    }
    reload(&env, &exporter, &(both + &poll("")));
    env.conserved(&exporter, &[FIRST, SECOND]).await;
    assert!(
        said(&exporter.log(), &["ERROR"]).is_empty() && said(&exporter.log(), &["WARN"]).is_empty(),
        "{}",
        exporter.log()
    );
    assert!(!exporter.get("/status").contains("no longer"), "a pool that is let go is no error");
}
