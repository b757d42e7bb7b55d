//! `check` against a simulated Cognito and a real receiver. Every failure is a line that names the remedy.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cognito_auth_core::privacy::HashKey;
use cognito_auth_exporter::lifecycle::Clock;
use cognito_auth_simulator::export::ExportSettings;
use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::logs::SimulatedLogGroup;
use cognito_auth_simulator::quota::Category;
use cognito_auth_simulator::world::{Role, SimulatedPool, World};
use cognito_auth_simulator::{Options, Simulation};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::exporter;
use crate::exporter::Exporter;
use crate::peers;
use crate::receiver::{Receiver, Reply};

const POOL: &str = "eu-west-1_Check1";
const ARN: &str = "arn:aws:cognito-idp:eu-west-1:*:userpool/eu-west-1_Check1";

/// A pool of three users, one of them with an event, and a directory.
struct CheckEnv {
    simulation: Simulation,
    directory: TempDir,
}

/// The output and the exit status of `check`.
struct Said {
    code: Option<i32>,
    text: String,
}

impl CheckEnv {
    async fn set(change: impl FnOnce(&mut World)) -> Self {
        let simulation = Simulation::start(Options::default()).await.unwrap();
        simulation.world(|world| {
            world.add_pool(SimulatedPool::new(POOL));
            for user in ["ann-secret", "bob-secret", "cy-secret"] {
                world.add_user(POOL, user);
                world.add_to_group(POOL, "staff", user);
            }
            let event = world.sign_in(Clock::system().now());
            world.arrive(POOL, "ann-secret", &event);
            change(world);
        });
        Self { simulation, directory: tempfile::tempdir().unwrap() }
    }

    fn config(&self, text: &str) -> PathBuf {
        exporter::configure(self.directory.path(), text)
    }

    /// Checks the pool with these keys and further lines.
    fn check(&self, pool: &str, rest: &str) -> Said {
        self.check_with(pool, rest, |_| {})
    }

    fn check_with(&self, pool: &str, rest: &str, change: impl FnOnce(&mut Command)) -> Said {
        let mut command = self.command(pool, rest);
        change(&mut command);
        Said::of(&mut command)
    }

    /// Checks with further arguments; the output may name users.
    fn check_naming(&self, pool: &str, rest: &str, arguments: &[&str]) -> Said {
        Said::naming(self.command(pool, rest).args(arguments))
    }

    fn command(&self, pool: &str, rest: &str) -> Command {
        let config = self.config(&format!("[[pools]]\nid = {POOL:?}\n{pool}\n{rest}"));
        let mut command = exporter::command(&self.simulation.url());
        command.arg("check").arg("--config").arg(config);
        command
    }

    fn state(&self) -> String {
        self.directory.path().join("state").display().to_string()
    }
}

impl Said {
    fn of(command: &mut Command) -> Self {
        let said = Self::naming(command);
        assert!(!said.text.contains("secret"), "nobody is named: {}", said.text);
        said
    }

    /// The output of a check that may name users.
    fn naming(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "everything is on stdout");
        Self { code: output.status.code(), text: String::from_utf8(output.stdout).unwrap() }
    }

    /// The JSON document of `--output json`.
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// Fails unless exactly this many steps failed, one of them with this cause and remedy.
    #[track_caller]
    fn fails(&self, failed: usize, cause: &str, remedy: &str) {
        assert_eq!(self.code, Some(1), "{}", self.text);
        let line = format!("FAIL  {cause}");
        let mut lines = self.text.lines().skip_while(|said| !said.starts_with(&line));
        assert!(lines.next().is_some(), "{cause:?} was not said:\n{}", self.text);
        assert_eq!(lines.next(), Some(format!("      -> {remedy}").as_str()), "{}", self.text);
        assert_eq!(self.text.lines().filter(|line| line.starts_with("FAIL")).count(), failed, "{}", self.text);
        assert!(self.text.lines().last().unwrap().starts_with(&format!("{failed} of ")), "{}", self.text);
    }

    #[track_caller]
    fn says(&self, line: &str) {
        assert!(self.text.lines().any(|said| said == line), "{line:?} was not said:\n{}", self.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_said_a_line_each_and_nothing_but_reading_is_done() {
    let env = CheckEnv::set(|_| {}).await;
    let receiver = Receiver::http().await;
    let names = env.directory.path().join("names");
    std::fs::write(&names, "# by hand\nann-secret\n").unwrap();
    let said = env.check(
        &format!("all_users = true\ngroups = [\"staff\"]\nusernames_file = {names:?}"),
        &format!("[otlp]\nendpoint = {:?}\n", receiver.endpoint()),
    );
    assert_eq!(
        said.text,
        format!(
            "ok    configuration: 1 pool\n\
             ok    state.path {}: created, and can be written to\n\
             ok    http.listen 127.0.0.1:0: free\n\
             ok    otlp.endpoint {}: takes exports\n\
             ok    pool {POOL} usernames_file {}: 1 names\n\
             note  pool {POOL} groups: they add no user, because all_users follows every user; remove one of the two \
             keys\n\
             ok    pool {POOL} credentials: access key dummy\n\
             ok    pool {POOL} DescribeUserPool: account 111122223333, about 3 users\n\
             ok    pool {POOL} plan: PLUS, threat protection ENFORCED\n\
             ok    pool {POOL} names of users: usernames and subs, verified email addresses, verified telephone \
             numbers, preferred_username; case matters\n\
             ok    pool {POOL} ListUsers: 3 users\n\
             ok    pool {POOL} ListUsersInGroup staff: 3 users\n\
             ok    pool {POOL} AdminListUserAuthEvents: allowed, and there are events\n\
             ok    pool {POOL} names listed by hand: the name is in the pool\n\
             note  round of account 111122223333 in eu-west-1: about 3 users take 1s at 5 requests/s; \
             a poll.max_interval of 1h needs 0.01 requests/s\n\
             note  sizing of account 111122223333 in eu-west-1: about 52 MiB of memory and 1.1 GiB of disk; \
             0.5 million CloudTrail events a month, $10 in each trail but the first\n\
             note  mean delay of account 111122223333 in eu-west-1: about 7s if most users are quiet; \
             with a poll.max_interval of 2h about 7s, with 4h about 7s\n\
             all 13 steps succeeded\n",
            env.state(),
            receiver.endpoint(),
            names.display(),
        )
    );
    assert_eq!(said.code, Some(0));
    assert!(receiver.records().is_empty());
    assert_eq!(std::fs::read_dir(env.state()).unwrap().count(), 0, "the trial file is gone");
    let called: Vec<String> =
        env.simulation.world(|world| world.calls().iter().map(|call| call.operation.clone()).collect());
    assert_eq!(called, ["DescribeUserPool", "ListUsers", "ListUsersInGroup", "AdminListUserAuthEvents"]);
    env.check_naming("usernames = [\"gone\"]", "", &[]).says(&format!(
        "ok    pool {POOL} AdminListUserAuthEvents: allowed; the user who was asked for does not exist"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_listed_by_hand_that_are_not_in_the_pool_are_named_a_handful_at_most() {
    const REMEDY: &str = "correct or remove them in usernames or usernames_file; the step \"names of users\" says which \
                          names count";
    let env = CheckEnv::set(|world| world.quotas().set_limit(Category::UserResourceRead, Some(10_000))).await;
    let step = format!("pool {POOL} names listed by hand");
    let file = env.directory.path().join("names");
    std::fs::write(&file, "dee\ncy-secret\n").unwrap();
    let pool = format!("usernames = [\"ann-secret\", \"bobby\"]\nusernames_file = {file:?}");
    let fast = "[poll]\nrequests_per_second = 1000\n";
    env.check_naming(&pool, fast, &[]).fails(1, &format!("{step}: not in the pool: \"bobby\", \"dee\""), REMEDY);
    // A listing of everybody has met the others.
    let all = env.check_naming(&format!("all_users = true\n{pool}"), fast, &[]);
    all.fails(1, &format!("{step}: not in the pool: \"bobby\", \"dee\""), REMEDY);

    let names: String = (0..250).map(|number| format!("user-{number}\n")).collect();
    std::fs::write(&file, names).unwrap();
    let many = env.check_naming(&format!("usernames_file = {file:?}"), fast, &[]);
    many.fails(
        1,
        &format!(
            "{step}: not in the pool: \"user-0\", \"user-3\", \"user-6\", \"user-9\", \"user-12\" and 79 more; 84 of 250 \
             names were tried"
        ),
        REMEDY,
    );

    let there = env.check("usernames = [\"ann-secret\", \"bob-secret\"]", fast);
    there.says(&format!("ok    {step}: all 2 names are in the pool"));
    assert_eq!(there.code, Some(0), "{}", there.text);
    env.simulation.world(|world| world.inject(InjectedFault::access_denied().on("AdminListUserAuthEvents")));
    env.check("usernames = [\"ann-secret\"]", "")
        .says(&format!("skip  {step}: not tried, because AdminListUserAuthEvents failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_most_likely_not_meant_are_notes() {
    let env = CheckEnv::set(|_| {}).await;
    let said = env.check("all_users = true\ngroups = [\"staff\"]\nregion = \"us-east-1\"", "");
    said.says(&format!(
        "note  pool {POOL} region: calls go to us-east-1, but the pool's id is of eu-west-1, where the pool is"
    ));
    said.says(&format!(
        "note  pool {POOL} groups: they add no user, because all_users follows every user; remove one of the two keys"
    ));
    let plain = env.check("groups = [\"staff\"]\nregion = \"eu-west-1\"", "");
    for step in ["region", "groups"] {
        assert!(!plain.text.contains(&format!("pool {POOL} {step}: ")), "{}", plain.text);
    }
    // The id of a simulated pool names no region.
    let local = env.config("[[pools]]\nid = \"local_Abc\"\nregion = \"eu-west-1\"\nall_users = true\n");
    let mut command = exporter::command(&env.simulation.url());
    let said = Said::of(command.arg("check").arg("--offline").arg("--config").arg(local));
    assert!(!said.text.contains("region: "), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_offline_tries_what_needs_no_other_machine_and_says_what_it_skips() {
    let env = CheckEnv::set(|_| {}).await;
    let receiver = Receiver::http().await;
    let file = |name: &str, text: &str| {
        let path = env.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (names, headers) = (file("names", "ann-secret\n"), file("headers", "x-a=b\n"));
    let (key, web) = (file("key", &"k".repeat(32)), file("web.yml", "{}\n"));
    let access_keys = file("access-keys", &"k".repeat(32));
    let pool = format!("usernames_file = {names:?}\n");
    let rest = format!(
        "[otlp]\nendpoint = {:?}\nheaders_file = {headers:?}\n[privacy]\nhash_key_file = {key:?}\n\
         [firehose]\nlisten = \"127.0.0.1:0\"\naccess_keys_file = {access_keys:?}\n",
        receiver.endpoint()
    );
    let offline = |pool: &str| {
        env.check_with(pool, &rest, |command| {
            command.arg("--offline").env("COGNITO_EXPORTER_HTTP__WEB_CONFIG_FILE", &web);
            // Not even credentials are asked for.
            command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        })
    };
    let said = offline(&pool);
    let name = HashKey::new("k".repeat(32).as_bytes()).unwrap().name().to_owned();
    assert_eq!(
        said.text,
        format!(
            "ok    configuration: 1 pool\n\
             ok    state.path {}: created, and can be written to\n\
             ok    http.listen 127.0.0.1:0: free\n\
             ok    http.web_config_file {}: can be served with, over http\n\
             ok    firehose.listen 127.0.0.1:0: free; the keys can be used, over http\n\
             note  firehose.listen 127.0.0.1:0: no pool has export.firehose = true, so nothing is taken there\n\
             ok    privacy.hash_key_file {}: key {name}\n\
             ok    files of otlp: can be used\n\
             skip  otlp.endpoint {}: not tried, because of --offline\n\
             ok    pool {POOL} usernames_file {}: 1 names\n\
             skip  pool {POOL} credentials, permissions, plan, users and export: not tried, because of --offline\n\
             all 8 steps succeeded; 2 skipped\n",
            env.state(),
            web.display(),
            key.display(),
            receiver.endpoint(),
            names.display(),
        )
    );
    assert_eq!(said.code, Some(0));
    assert_eq!(env.simulation.world(|world| world.calls().total()), 0);

    std::fs::remove_file(&headers).unwrap();
    std::fs::remove_file(&names).unwrap();
    let broken = offline(&pool);
    assert_eq!(broken.code, Some(1), "{}", broken.text);
    for failed in ["otlp.endpoint", &format!("pool {POOL} usernames_file")] {
        assert!(broken.text.lines().any(|line| line.starts_with(&format!("FAIL  {failed} "))), "{}", broken.text);
    }
    assert!(broken.text.ends_with("2 of 8 steps failed; 1 skipped\n"), "{}", broken.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_of_a_check_is_one_document_with_every_step_and_a_summary() {
    let env = CheckEnv::set(|_| {}).await;
    let json = |pool: &str, arguments: &[&str]| {
        let said = env.check_naming(pool, "", &[&["--output", "json"], arguments].concat());
        (said.code, said.json())
    };
    let (code, document) = json("all_users = true\ngroups = [\"staff\"]", &[]);
    assert_eq!((code, &document["status"]), (Some(0), &json!("ok")));
    let steps = document["steps"].as_array().unwrap();
    let expected = json!({"status": "ok", "what": "configuration", "found": "1 pool"});
    assert_eq!(steps[0], expected);
    let expected = json!({
        "status": "note", "pool": POOL, "what": "groups",
        "found": "they add no user, because all_users follows every user; remove one of the two keys",
    });
    assert!(steps.contains(&expected), "{document:#}");
    let count = |status: &str| steps.iter().filter(|step| step["status"] == status).count();
    for status in ["ok", "note", "failed", "skipped"] {
        assert_eq!(document["summary"][status], count(status), "{status}");
    }

    let (code, document) = json("usernames = [\"bobby\"]", &[]);
    assert_eq!((code, &document["status"]), (Some(1), &json!("failed")));
    let steps = document["steps"].as_array().unwrap();
    let failed: Vec<&Value> = steps.iter().filter(|step| step["status"] == "failed").collect();
    let expected = json!({
        "status": "failed", "pool": POOL, "what": "names listed by hand", "cause": "not in the pool: \"bobby\"",
        "remedy": "correct or remove them in usernames or usernames_file; the step \"names of users\" says which names \
                   count",
    });
    assert_eq!(failed, [&expected]);

    let (code, document) = json("all_users = true", &["--offline"]);
    assert_eq!((code, &document["summary"]["skipped"]), (Some(0), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_of_a_check_has_the_mistakes_of_a_configuration_that_cannot_be_used() {
    let env = CheckEnv::set(|_| {}).await;
    let output = env.command("all_users = 1", "").args(["--output", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cause = document["steps"][0]["cause"].as_str().unwrap();
    assert!(cause.ends_with(&format!("pools[0] ({POOL}).all_users is 1; accepted: true or false")), "{cause}");
    assert_eq!((&document["status"], &document["steps"][0]["what"]), (&json!("failed"), &json!("configuration")));
    assert!(String::from_utf8(output.stderr).unwrap().contains("all_users is 1"), "people read it on stderr");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named_with_the_pool() {
    for operation in ["DescribeUserPool", "ListUsers", "ListUsersInGroup", "AdminListUserAuthEvents"] {
        let env = CheckEnv::set(|world| {
            world.inject(InjectedFault::access_denied().on(operation));
        })
        .await;
        let said = env.check("all_users = true\ngroups = [\"staff\"]", "");
        let what = if operation == "ListUsersInGroup" { "ListUsersInGroup staff" } else { operation };
        said.fails(
            1,
            &format!("pool {POOL} {what}: {operation}: AccessDeniedException"),
            &format!("allow cognito-idp:{operation} on {ARN}"),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn which_names_count_is_said_and_what_is_missing_where_the_pool_may_not_be_described() {
    let env = CheckEnv::set(|world| {
        let pool = world.pool_mut(POOL);
        (pool.alias_attributes, pool.case_sensitive) = (vec!["email".into()], Some(false));
    })
    .await;
    env.check("all_users = true", "").says(&format!(
        "ok    pool {POOL} names of users: usernames and subs, verified email addresses; case does not matter"
    ));
    env.simulation.world(|world| world.inject(InjectedFault::access_denied().on("DescribeUserPool")));
    let said = env.check("filter = 'email ^= \"a\"'", "");
    said.says(&format!(
        "note  pool {POOL} names of users: usernames and subs only, as written; allow cognito-idp:DescribeUserPool so \
         that the pool's sign-in names count, or list and exclude users by username or sub"
    ));
    said.says(&format!(
        "note  pool {POOL} filter: users who change their email are no longer followed; filter by status, or use groups"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_the_plan_or_without_threat_protection_is_told_what_to_set() {
    const REMEDY: &str = "set the pool's feature plan to Plus and threat protection to audit-only or full-function";
    for (tier, mode) in [("ESSENTIALS", "OFF"), ("PLUS", "OFF"), ("LITE", "AUDIT")] {
        let env = CheckEnv::set(|world| {
            let pool = world.pool_mut(POOL);
            (pool.tier, pool.threat_protection) = (tier.to_owned(), mode.to_owned());
        })
        .await;
        let said = env.check("all_users = true", "");
        let plan = format!("pool {POOL} plan: {tier}, threat protection {mode}: Cognito keeps no auth events");
        said.fails(2, &plan, REMEDY);
        said.fails(2, &format!("pool {POOL} AdminListUserAuthEvents: AdminListUserAuthEvents: UserPoolAddOn"), REMEDY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_missing_or_unknown_are_told_apart() {
    let env = CheckEnv::set(|_| {}).await;
    let said = env.check_with("all_users = true", "", |command| {
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    });
    said.fails(
        1,
        &format!("pool {POOL} credentials: credentials: no AWS credentials found"),
        "give the exporter credentials: an instance, task or pod role, AWS_ACCESS_KEY_ID, or the pool's profile",
    );
    assert_eq!(env.simulation.world(|world| world.calls().total()), 0, "nothing is asked without credentials");

    env.simulation.world(|world| world.inject(InjectedFault::unrecognized_client().on("DescribeUserPool")));
    env.check("all_users = true", "").fails(
        1,
        &format!("pool {POOL} DescribeUserPool: DescribeUserPool: UnrecognizedClientException"),
        "renew the credentials, or give others",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_assumed_for_real() {
    let role = "arn:aws:iam::111122223333:role/reader";
    let env = CheckEnv::set(|world| {
        world.add_role(Role { arn: role.to_owned(), external_id: Some("tenant-7".to_owned()) });
    })
    .await;
    let with = |external_id: &str| {
        env.check(&format!("all_users = true\nrole_arn = {role:?}\nexternal_id = {external_id:?}"), "")
    };
    let said = with("tenant-7");
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert!(said.text.contains(&format!("ok    pool {POOL} role_arn {role}: access key ASIA")), "{}", said.text);
    with("tenant-8").fails(
        1,
        &format!("pool {POOL} role_arn {role}: credentials: the role cannot be assumed: AccessDenied"),
        "allow sts:AssumeRole on the pool's role_arn, in the caller's policy and in the role's trust policy, \
         and check external_id",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_a_group_or_a_file_that_is_not_there_is_named() {
    let env = CheckEnv::set(|_| {}).await;
    env.check("groups = [\"nobody\"]", "").fails(
        1,
        &format!(
            "pool {POOL} ListUsersInGroup nobody: parameters refused: ListUsersInGroup: ResourceNotFoundException"
        ),
        "check the pool's groups",
    );
    let missing = env.directory.path().join("missing");
    env.check(&format!("usernames_file = {missing:?}"), "").fails(
        1,
        &format!("pool {POOL} usernames_file {}: No such file or directory", missing.display()),
        "the file must be there, be text, and be readable by the exporter's user",
    );
    env.simulation.world(|world| world.remove_pool(POOL));
    env.check("usernames = [\"ann-secret\"]", "").fails(
        2,
        &format!("pool {POOL} DescribeUserPool: DescribeUserPool: ResourceNotFoundException"),
        "check the pool's id, its region and the account of the credentials",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_wants_credentials_or_is_something_else_is_told_so() {
    const WRONG: &str = "check the endpoint's port and path, and otlp.protocol: something else answers there";
    let env = CheckEnv::set(|_| {}).await;
    let check = |endpoint: &str| env.check("all_users = true", &format!("[otlp]\nendpoint = {endpoint:?}\n"));

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check(&format!("http://{closed}")).fails(
        1,
        &format!("otlp.endpoint http://{closed}: no answer: "),
        "start the receiver, or correct otlp.endpoint; until it answers, records wait in state.path",
    );

    let receiver = Receiver::http().await;
    let at = receiver.endpoint();
    let page = Reply::Raw { status: 200, headers: vec![("content-type", "text/html")], body: "<html>Welcome</html>" };
    for (reply, remedy) in [
        (Reply::Status(404, "not here"), WRONG),
        (page, WRONG),
        (
            Reply::Status(401, "who are you?"),
            "give the receiver the credentials that it wants, in otlp.headers or otlp.headers_file",
        ),
    ] {
        receiver.answer_always(reply);
        check(&at).fails(1, &format!("otlp.endpoint {at}: "), remedy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_cannot_be_written_to_is_told_apart_from_one_in_use() {
    let env = CheckEnv::set(|_| {}).await;
    std::fs::write(env.state(), "a file in the directory's place").unwrap();
    env.check("all_users = true", "").fails(
        1,
        &format!("state.path {}: cannot be created: ", env.state()),
        "state.path must be a directory that the exporter's user can write to, on a disk with room",
    );
    std::fs::remove_file(env.state()).unwrap();

    let config = env.config(&format!("[[pools]]\nid = {POOL:?}\nall_users = true\n"));
    let running = Exporter::start(&config, &env.simulation.url());
    let said = env.check("all_users = true", "");
    said.says(&format!(
        "note  state.path {}: in use by a running exporter; a second one cannot start until that one stops",
        env.state()
    ));
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert!(running.stop().success(), "undisturbed");
    env.check("all_users = true", "").says(&format!("ok    state.path {}: can be written to", env.state()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_hashes_is_read_and_one_that_is_none_is_named() {
    let env = CheckEnv::set(|_| {}).await;
    let file = |name: &str| env.directory.path().join(name);
    let check = |key: &str, former: &str| {
        let privacy = format!("hash_key_file = {:?}\nformer_hash_key_file = {:?}", file(key), file(former));
        env.check("all_users = true", &format!("[privacy]\nusername = \"hash\"\n{privacy}\n"))
    };
    for (name, text, mode) in
        [("key", &"k".repeat(32), 0o600), ("open", &"o".repeat(32), 0o644), ("short", &"s".repeat(31), 0o600)]
    {
        std::fs::write(file(name), text).unwrap();
        std::fs::set_permissions(file(name), Permissions::from_mode(mode)).unwrap();
    }
    let said = check("key", "open");
    assert_eq!(said.code, Some(0), "{}", said.text);
    let name = |key: &str| HashKey::new(key.repeat(32).as_bytes()).unwrap().name().to_owned();
    said.says(&format!("ok    privacy.hash_key_file {}: key {}", file("key").display(), name("k")));
    let former = format!("privacy.former_hash_key_file {}", file("open").display());
    said.says(&format!("ok    {former}: key {}", name("o")));
    said.says(&format!("note  {former}: every user of this machine may read the key of the hashes: chmod o= it"));

    let remedy = "the file must be there, hold a key, and be readable by the exporter's user";
    check("none", "key").fails(
        1,
        &format!("privacy.hash_key_file {}: there is no file", file("none").display()),
        remedy,
    );
    let short =
        format!("privacy.former_hash_key_file {0}: {0} holds 31 bytes, and a key has 32", file("short").display());
    check("key", "short").fails(1, &short, remedy);
    let directory = format!("privacy.hash_key_file {0}: {0} is not a regular file", file("").display());
    check("", "key").fails(1, &directory, remedy);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_named() {
    let env = CheckEnv::set(|_| {}).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    env.check_with("all_users = true", "", |command| {
        command.env("COGNITO_EXPORTER_HTTP__LISTEN", &address);
    })
    .fails(
        1,
        &format!("http.listen {address}: Address already in use"),
        "choose an address of this machine and a free port",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_takes_longer_than_its_timeout() {
    let env = CheckEnv::set(|world| {
        world.inject(FaultKind::Hang);
    })
    .await;
    let receiver = Receiver::http().await;
    receiver.answer_always(Reply::Hang);
    let began = Instant::now();
    let said = env.check(
        "all_users = true",
        &format!("[poll]\ntimeout = \"1s\"\n[otlp]\nendpoint = {:?}\ntimeout = \"500ms\"\n", receiver.endpoint()),
    );
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    said.fails(
        4,
        &format!("pool {POOL} ListUsers: timed out: "),
        "check the network path to the region, and poll.timeout",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_one_account_and_region_share_a_budget_and_an_objective_out_of_reach_is_said() {
    let env = CheckEnv::set(|world| {
        for (pool, users) in [("eu-west-1_Check2", 50), ("us-east-1_Check3", 200)] {
            world.add_pool(SimulatedPool::new(pool));
            (0..users).for_each(|user| world.add_user(pool, &format!("user-{user}-secret")));
        }
    })
    .await;
    let said = env.check(
        "all_users = true",
        "[[pools]]\nid = \"eu-west-1_Check2\"\nall_users = true\n\
         [[pools]]\nid = \"us-east-1_Check3\"\nall_users = true\n\
         [poll]\nmin_interval = \"1s\"\nmax_interval = \"20s\"\n",
    );
    assert_eq!(said.code, Some(0), "{}", said.text);
    said.says(
        "note  round of account 111122223333 in eu-west-1: about 53 users take 11s at 5 requests/s; \
         a poll.max_interval of 20s needs 2.65 requests/s",
    );
    let far = "note  round of account 111122223333 in us-east-1: ";
    said.says(&format!(
        "{far}about 200 users take 40s at 5 requests/s; a poll.max_interval of 20s needs 10 requests/s"
    ));
    said.says(&format!(
        "{far}poll.max_interval cannot be kept: \
         raise poll.requests_per_second or poll.max_interval, or follow fewer users"
    ));
    let sizing = said.text.lines().find(|line| line.starts_with("note  sizing of account 111122223333 in us-east-1: "));
    assert!(sizing.unwrap().ends_with("; a poll.max_interval of 1h fits these users"), "{}", said.text);
    // An interval of 40 s is just within reach, and leaves no calls for the users with more events.
    said.says(
        "note  mean delay of account 111122223333 in us-east-1: about 6s if most users are quiet; \
         with a poll.max_interval of 40s about 20s, with 1m 20s about 6s",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_accounts_limit_is_tried_and_who_may_not_ask_is_told_what_to_allow() {
    const SHARE: &str = "[poll]\nrequests_per_second = \"10%\"\n";
    let env = CheckEnv::set(|world| world.quotas().set_limit(Category::UserResourceRead, Some(200))).await;
    let said = env.check("all_users = true", SHARE);
    said.says(&format!("ok    pool {POOL} GetProvisionedLimit: the account's limit is 200 requests/s"));
    assert!(said.text.contains("about 3 users take 1s at 20 requests/s"), "{}", said.text);
    assert_eq!(said.code, Some(0), "{}", said.text);

    env.simulation.world(|world| world.inject(InjectedFault::access_denied().on("GetProvisionedLimit")));
    // One of two shards has half of the rate, and its own share of the users.
    let said = env.check("all_users = true", &format!("{SHARE}[shard]\nindex = 0\ncount = 2\n"));
    let note = format!("note  pool {POOL} GetProvisionedLimit: GetProvisionedLimit: AccessDeniedException: ");
    let line = said.text.lines().find(|line| line.starts_with(&note)).unwrap();
    let told = "the default of 50 requests/s is taken; allow cognito-idp:GetProvisionedLimit on *";
    assert!(line.ends_with(told), "{line}");
    assert!(said.text.contains("at 2.5 requests/s"), "{}", said.text);
    assert_eq!(said.code, Some(0), "it is optional: {}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bar_shows_on_a_terminal_where_the_lines_go_to_a_file() {
    if !peers::has("script") {
        return;
    }
    let env = CheckEnv::set(|_| {}).await;
    let plain = env.check("all_users = true", "").text.replace("created, and can", "can");
    let file = env.directory.path().join("said");
    let config = env.config(&format!("[[pools]]\nid = {POOL:?}\nall_users = true\n"));
    let program = exporter::command(&env.simulation.url());
    for (rest, has_bar) in [(format!(">{file:?}"), true), (String::new(), false)] {
        let mut command = peers::on_terminal(&format!("{:?} check --config {config:?} {rest}", program.get_program()));
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shown}");
        assert_eq!(shown.contains("pools checked"), has_bar, "{shown}");
        let lines = if has_bar { std::fs::read_to_string(&file).unwrap() } else { shown.replace('\r', "") };
        assert_eq!(lines, plain);
    }
}

/// The log group of an export.
const GROUP: &str = "/aws/vendedlogs/check";
/// A pool's keys, with the export to read.
const EXPORT: &str = "all_users = true\n[pools.export]\nlog_group = \"/aws/vendedlogs/check\"";

#[tokio::test(flavor = "multi_thread")]
async fn the_pools_export_is_compared_with_the_configuration_and_its_log_group_is_read() {
    let env = CheckEnv::set(|world| world.export_events(POOL, ExportSettings::to_log_group(GROUP))).await;
    let said = env.check(EXPORT, "");
    let arn = format!("arn:aws:logs:eu-west-1:111122223333:log-group:{GROUP}");
    said.says(&format!(
        "ok    pool {POOL} GetLogDeliveryConfiguration: userAuthEvents go to log group {arn}, as configured"
    ));
    said.says(&format!(
        "ok    pool {POOL} FilterLogEvents {GROUP}: allowed; no log event of the last 24 hours is on the first page"
    ));
    assert_eq!(said.code, Some(0), "{}", said.text);
    env.simulation.world(|world| {
        let event = world.sign_in(Clock::system().now());
        world.arrive(POOL, "ann-secret", &event);
    });
    let by_arn = EXPORT.replace(GROUP, &format!("{arn}:*"));
    let said = env.check(&by_arn, "");
    said.says(&format!("ok    pool {POOL} FilterLogEvents {arn}: allowed, and there are log events"));
    assert_eq!(said.code, Some(0), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_absent_or_goes_elsewhere_is_told_what_to_set() {
    const SET: &str = "set the pool's log delivery (SetLogDeliveryConfiguration) for userAuthEvents to level INFO and \
                       log group /aws/vendedlogs/check";
    let env = CheckEnv::set(|world| {
        world.add_log_group(SimulatedLogGroup::new(GROUP, "eu-west-1", "111122223333"));
    })
    .await;
    let step = format!("pool {POOL} GetLogDeliveryConfiguration");
    env.check(EXPORT, "").fails(1, &format!("{step}: the pool exports no userAuthEvents"), SET);
    env.simulation.world(|world| world.export_events(POOL, ExportSettings::to_log_group("/aws/vendedlogs/other")));
    let other = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/vendedlogs/other";
    env.check(EXPORT, "").fails(
        1,
        &format!("{step}: userAuthEvents go to log group {other}, which the configuration does not read"),
        &format!("{SET}, or correct pools[].export.log_group or pools[].export.firehose"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_group_that_cannot_be_read_is_told_with_its_permission() {
    let env = CheckEnv::set(|world| world.export_events(POOL, ExportSettings::to_log_group(GROUP))).await;
    let step = format!("pool {POOL} FilterLogEvents {GROUP}");
    env.simulation.world(|world| world.inject(InjectedFault::access_denied().on("FilterLogEvents")));
    env.check(EXPORT, "").fails(
        1,
        &format!("{step}: FilterLogEvents: AccessDeniedException"),
        "allow logs:FilterLogEvents on arn:aws:logs:eu-west-1:*:log-group:/aws/vendedlogs/check:*",
    );
    env.simulation.world(|world| {
        world.remove_all_faults();
        world.inject(InjectedFault::access_denied().on("GetLogDeliveryConfiguration"));
        world.remove_log_group(GROUP);
    });
    let said = env.check(EXPORT, "");
    said.fails(
        1,
        &format!("{step}: FilterLogEvents: ResourceNotFoundException"),
        "create the log group, or correct pools[].export.log_group; the group lies in the pool's region, and one of \
         another account needs its ARN",
    );
    let note = format!("note  pool {POOL} GetLogDeliveryConfiguration: GetLogDeliveryConfiguration: AccessDenied");
    assert!(said.text.lines().any(|line| line.starts_with(&note) && line.ends_with(ARN)), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_only_its_export_tells_of_needs_no_permission_to_list_or_poll_and_has_no_round() {
    let env = CheckEnv::set(|world| {
        world.export_events(POOL, ExportSettings::to_log_group("/aws/vendedlogs/check"));
        for operation in ["ListUsers", "AdminListUserAuthEvents"] {
            world.inject(InjectedFault::access_denied().on(operation));
        }
    })
    .await;
    let alone = env.check(&format!("{EXPORT}\naudit = \"off\""), "");
    assert_eq!(alone.code, Some(0), "{}", alone.text);
    alone.says("note  pool eu-west-1_Check1 ListUsers and AdminListUserAuthEvents: not called: export.audit is \"off\", so nobody is listed or polled");
    assert!(!alone.text.contains("round of"), "{}", alone.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_for_data_firehose_is_tried_with_its_keys() {
    let env = CheckEnv::set(|_| {}).await;
    let keys = env.directory.path().join("keys");
    let firehose = format!("[firehose]\nlisten = \"127.0.0.1:0\"\naccess_keys_file = {keys:?}\n");
    let missing = env.check("usernames = [\"ann-secret\"]", &firehose);
    assert_eq!(missing.code, Some(1), "{}", missing.text);
    assert!(missing.text.contains("FAIL  firehose.listen 127.0.0.1:0: "), "{}", missing.text);
    std::fs::write(&keys, "hunter2\n0123456789abcdef0123456789abcdef\nshort\n").unwrap();
    let short = env.check("usernames = [\"ann-secret\"]", &firehose);
    short.says(&format!(
        "note  firehose.access_keys_file {}: 2 of its keys can be guessed, being shorter than 32 bytes; make one with \
         `openssl rand -hex 32`",
        keys.display()
    ));
    assert_eq!(short.code, Some(0), "{}", short.text);
    std::fs::write(&keys, "0123456789abcdef0123456789abcdef\n").unwrap();
    let there = env.check("usernames = [\"ann-secret\"]", &firehose);
    assert_eq!(there.code, Some(0), "{}", there.text);
    there.says("ok    firehose.listen 127.0.0.1:0: free; the keys can be used, over http");
    assert!(!there.text.contains("can be guessed"), "{}", there.text);
    there.says("note  firehose.listen 127.0.0.1:0: no pool has export.firehose = true, so nothing is taken there");
}
