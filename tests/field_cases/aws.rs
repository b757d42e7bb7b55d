//! Calling AWS: credentials, proxies, certificates, and very large answers.

use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cognito_auth_simulator::fault::{FaultKind, InjectedFault};
use cognito_auth_simulator::world::SimulatedPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::exporter::Exporter;
use crate::receiver::{Pki, Receiver};
use crate::test_env::{READ, TestEnv, all_live, go_on, populate, said};

const POOL: &str = "eu-west-1_Aws";

/// The role for the calls of a pool, if one is configured.
const ROLE: &str = "arn:aws:iam::111122223333:role/reader";

/// More memory than an exporter of a few users ever needs.
const MEMORY_BYTES_MAX: u64 = 300 << 20;

/// A server on loopback that answers the first request of each connection and then closes it.
struct OneShotServer {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl OneShotServer {
    /// Answers every request with this status and JSON.
    #[expect(clippy::disallowed_methods, reason = "a test's server; the guard aborts it")]
    async fn answering(status: &str, json: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (seen, length) = (requests.clone(), json.len());
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
        let answer = format!("{head}connection: close\r\n\r\n{json}");
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 16_384];
                let read = stream.read(&mut request).await.unwrap_or_default();
                seen.lock().unwrap().push(String::from_utf8_lossy(&request[..read]).into_owned());
                // The client may have disconnected.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, requests, task }
    }

    /// Terminates TLS as `localhost` in front of a plain server.
    #[expect(clippy::disallowed_methods, reason = "a test's server; the guard aborts it")]
    async fn tls(pki: &Pki, behind: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let (acceptor, behind) = (pki.acceptor(b"http/1.1"), behind.trim_start_matches("http://").to_owned());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate disconnects during the handshake.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut behind = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { address, requests: Arc::default(), task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for OneShotServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address without a listener.
async fn nobody() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// An environment with one user and a pool with these further keys.
async fn env(keys: &str) -> TestEnv {
    let config = all_live(POOL).replacen("all_users = true", &format!("all_users = true\n{keys}"), 1);
    TestEnv::set_for(Receiver::http().await, "http/protobuf", &config, |world| populate(world, POOL, 1, 1)).await
}

/// Runs a command of the exporter in the simulation's environment, with changes.
fn run(env: &TestEnv, command: &str, change: impl FnOnce(&mut Command)) -> String {
    let mut exporter = crate::exporter::command(&env.simulation.url());
    exporter.arg(command).arg("--config").arg(env.config());
    change(&mut exporter);
    let Output { stdout, stderr, .. } = exporter.output().unwrap();
    String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap()
}

/// Removes the access keys of the default environment.
fn without_keys(command: &mut Command) -> &mut Command {
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY")
}

/// The cause of a failed step, and its remedy.
#[track_caller]
fn failed(text: &str, step: &str) -> (String, String) {
    let mut lines = text.lines().skip_while(|line| !(line.starts_with("FAIL") && line.contains(step)));
    let cause = lines.next().unwrap_or_else(|| panic!("{step:?} did not fail:\n{text}"));
    (cause.to_owned(), lines.next().unwrap_or_default().to_owned())
}

/// An attack: a server in Cognito's place (a proxy, an emulator) sends 33 MB of events or challenges without members.
/// Each has three bytes, and the client makes a value of each.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_millions_of_values_costs_neither_memory_nor_an_event() {
    const FLOOD: usize = 11_000_000;
    let env = TestEnv::set(&all_live(POOL), |world| {
        populate(world, POOL, 3, 5);
        world.inject(InjectedFault::new(FaultKind::EmptyEvents(FLOOD)).on(READ).for_user("user-0").times(2));
        world.inject(InjectedFault::new(FaultKind::EmptyChallenges(FLOOD)).on(READ).for_user("user-1").times(2));
    })
    .await;
    let exporter = env.exporter();
    // The next pages bring all events of the refused pages, because no cursor has moved past them.
    env.conserved(&exporter, &[POOL]).await;
    go_on(&env, POOL, 3);
    env.conserved(&exporter, &[POOL]).await;
    let refused = exporter.scrape().sum("cognito_exporter_api_requests_total", &["outcome=\"error\""]);
    assert!((refused - 4.0).abs() < 0.5, "{refused}");
    if let Some(most) = most_memory(&exporter) {
        assert!(most < MEMORY_BYTES_MAX, "{most} bytes of memory");
    }
}

/// The peak memory of a process in bytes, if the kernel reports it.
fn most_memory(exporter: &Exporter) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", exporter.pid())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// A similar attack: an answer of acceptable size with far too many challenges and far too long texts.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_holds_more_than_is_exported_is_cut_told_once_and_counted_once() {
    let env = TestEnv::set(&all_live(POOL), |world| {
        populate(world, POOL, 2, 2);
        world.inject(InjectedFault::new(FaultKind::EmptyChallenges(1_000)).on(READ).for_user("user-0"));
        world.inject(InjectedFault::new(FaultKind::Huge).on(READ).for_user("user-1"));
    })
    .await;
    let exporter = env.exporter();
    env.until_received(|records| records.len() >= 4).await;
    env.until_polled(POOL, "user-0", 2).await;
    env.until_polled(POOL, "user-1", 2).await;
    let records = env.receiver.records();
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|record| record.text("aws.cognito.device.name").len() <= 64 << 10));
    let told = said(&exporter.log(), &["WARN", "holds more than is exported of it"]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(exporter.scrape().sum("cognito_exporter_cut_events_total", &[]) > 0.0);
}

/// Public reports about exporters in EKS: with HTTP_PROXY set, the requests for Pod Identity credentials go through the
/// proxy, which does not know the endpoint. Other AWS clients send them directly.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_this_host_are_asked_for_without_a_proxy_and_cognito_with_it() {
    let env = env("").await;
    let endpoint = OneShotServer::answering(
        "200 OK",
        r#"{"AccessKeyId":"ASIACONTAINER","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}"#,
    )
    .await;
    let proxy = nobody().await;
    let credentials = format!("ok    pool {POOL} credentials: access key ASIACONTAINER");
    let text = run(&env, "check", |command| {
        without_keys(command)
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.url("/creds"))
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod")
            .env("HTTP_PROXY", format!("http://{proxy}"));
    });
    assert!(text.contains(&credentials), "{text}");
    let asked = endpoint.asked();
    assert!(!asked.is_empty() && asked.iter().all(|request| request.starts_with("GET /creds ")), "{asked:?}");

    // The simulation is the proxy for a Cognito that only it can reach.
    let text = run(&env, "check", |command| {
        without_keys(command)
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.url("/creds"))
            .env("AWS_ENDPOINT_URL", "http://cognito.invalid")
            .env("HTTP_PROXY", env.simulation.url());
    });
    assert!(text.contains(&credentials), "{text}");
    assert!(text.contains(&format!("ok    pool {POOL} ListUsers: 1 users")), "{text}");
}

/// Public reports: a profile of IAM Identity Center fails with an error that names a compile-time feature, which no
/// user can enable.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_signs_in_with_a_login_to_iam_identity_center_and_says_when_it_is_over() {
    let env = env("profile = \"company\"").await;
    let portal = OneShotServer::answering(
        "200 OK",
        r#"{"roleCredentials": {"accessKeyId": "ASIASSO", "secretAccessKey": "s", "sessionToken": "t",
            "expiration": 4070908800000}}"#,
    )
    .await;
    env.file(
        "aws",
        "[profile company]\nsso_session = company\nsso_account_id = 111122223333\nsso_role_name = reader\n\
         [sso-session company]\nsso_region = eu-west-1\nsso_start_url = https://company.awsapps.com/start\n",
    );
    let home = env.path("home");
    let cache = home.join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).unwrap();
    let check = || {
        run(&env, "check", |command| {
            without_keys(command)
                .env("HOME", &home)
                .env("AWS_CONFIG_FILE", env.path("aws"))
                .env("AWS_ENDPOINT_URL_SSO", portal.url(""));
        })
    };
    let over = |text: &str| {
        let (cause, remedy) = failed(text, "credentials");
        assert!(cause.contains("the IAM Identity Center login has expired"), "{text}");
        assert!(remedy.contains("aws sso login") && !remedy.contains("clock"), "{text}");
    };
    over(&check());
    // The SHA-1 of the session's name.
    let token = cache.join("71b21161ffa1e6516bcc072aaf5ef38cbe85b511.json");
    let login = |until: &str| {
        let url = "https://company.awsapps.com/start";
        let login =
            format!(r#"{{"accessToken":"secret","expiresAt":{until:?},"region":"eu-west-1","startUrl":{url:?}}}"#);
        std::fs::write(&token, login).unwrap();
    };
    login("2020-01-01T00:00:00Z");
    over(&check());
    login("2099-01-01T00:00:00Z");
    let text = check();
    assert!(text.contains(&format!("ok    pool {POOL} credentials: access key ASIASSO")), "{text}");
    assert!(portal.asked()[0].starts_with("GET /federation/credentials?"), "{:?}", portal.asked());
}

/// Public reports about companies whose proxy inspects TLS: a client ignores AWS_CA_BUNDLE, which the AWS CLI and boto3
/// support.
#[tokio::test(flavor = "multi_thread")]
async fn the_certificates_of_aws_ca_bundle_are_trusted_in_place_of_the_systems() {
    let env = env("").await;
    let (pki, other) = (Pki::new(false), Pki::new(false));
    let https = OneShotServer::tls(&pki, &env.simulation.url()).await;
    let with = |command: &str, variables: &[(&str, std::path::PathBuf)]| {
        run(&env, command, |command| {
            command.env("AWS_ENDPOINT_URL", format!("https://{}", https.address)).envs(variables.iter().cloned());
        })
    };
    let (ours, others) = (pki.ca_file(), other.ca_file());
    let listed = format!("ok    pool {POOL} ListUsers: 1 users");
    let text = with("check", &[("AWS_CA_BUNDLE", ours.clone()), ("SSL_CERT_FILE", others.clone())]);
    assert!(text.contains(&listed), "{text}");
    let text = with("check", &[("SSL_CERT_FILE", ours.clone())]);
    assert!(text.contains(&listed), "the system's roots are as SSL_CERT_FILE says: {text}");
    for untrusted in
        [&[("SSL_CERT_FILE", others.clone())][..], &[("AWS_CA_BUNDLE", others), ("SSL_CERT_FILE", ours)][..]]
    {
        let text = with("check", untrusted);
        let (cause, remedy) = failed(&text, "ListUsers");
        assert!(cause.contains("invalid peer certificate"), "{text}");
        assert!(remedy.contains("AWS_CA_BUNDLE"), "{text}");
    }

    let (absent, nonsense) = (env.path("absent.pem"), env.path("nonsense.pem"));
    std::fs::write(&nonsense, "hello").unwrap();
    for (file, expected) in
        [(absent, "cannot read AWS_CA_BUNDLE"), (nonsense, "nonsense.pem holds no certificate that can be used")]
    {
        let (cause, remedy) = failed(&with("check", &[("AWS_CA_BUNDLE", file.clone())]), "AWS_CA_BUNDLE");
        assert!(cause.contains(expected) && remedy.contains("PEM format"), "{cause} {remedy}");
        let text = with("run", &[("AWS_CA_BUNDLE", file)]);
        assert!(text.contains(expected) && text.contains("unset AWS_CA_BUNDLE"), "{text}");
    }
}

/// Public reports: AWS_ENDPOINT_URL, set for a VPC endpoint of Cognito, also redirects STS, which then seems to refuse
/// the credentials.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_asked_for_at_cognitos_endpoint_leads_to_the_variable_and_not_to_the_clock() {
    let env = env(&format!("role_arn = {ROLE:?}")).await;
    let cognito = OneShotServer::answering("400 Bad Request", r#"{"__type":"UnknownOperationException"}"#).await;
    let text = run(&env, "check", |command| {
        command.env("AWS_ENDPOINT_URL", cognito.url(""));
    });
    let (_, remedy) = failed(&text, "role_arn");
    assert!(remedy.contains("AWS_ENDPOINT_URL_COGNITO_IDENTITY_PROVIDER"), "{text}");
    assert!(!text.contains("clock"), "{text}");
    assert!(cognito.asked()[0].contains("Action=AssumeRole"), "{:?}", cognito.asked());

    // If STS has an endpoint of its own, the variable is not the cause; and a role that may be assumed works.
    let text = run(&env, "check", |command| {
        command.env("AWS_ENDPOINT_URL_STS", cognito.url(""));
    });
    assert!(!failed(&text, "role_arn").1.contains("AWS_ENDPOINT_URL"), "{text}");
    let text = run(&env, "check", |_| {});
    assert!(failed(&text, "role_arn").1.contains("allow sts:AssumeRole"), "{text}");
}

/// Public reports about Nix and ConfigMaps: a file of usernames is replaced by another with the same size and date, and
/// the new names are not followed.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_usernames_is_read_again_under_the_same_date_and_size() {
    let config = format!(
        "[[pools]]\nid = {POOL:?}\nusernames_file = \"{{directory}}/names\"\n\
         followed_since = \"2020-01-01T00:00:00Z\"\n\
         [poll]\nrequests_per_second = 400\nmin_interval = \"1s\"\nmax_interval = \"10s\"\n"
    );
    let env = TestEnv::set(&config, |world| {
        world.add_pool(SimulatedPool::new(POOL));
        ["ann", "ben"].into_iter().for_each(|user| world.add_user(POOL, user));
    })
    .await;
    let write = |names: &str| {
        let (draft, path) = (env.path("draft"), env.path("names"));
        std::fs::write(&draft, names).unwrap();
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        std::fs::File::options().write(true).open(&draft).unwrap().set_modified(date).unwrap();
        std::fs::rename(draft, path).unwrap();
    };
    write("ann\n");
    let _exporter = env.exporter();
    env.until_polled(POOL, "ann", 1).await;
    write("ben\n");
    env.until_polled(POOL, "ben", 1).await;
}
