//! The forms of `events`: CSV, tables and Parquet, on stdout, on a terminal and in a file.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use cognito_auth_core::event::{EventContext, UnixMillis};

use crate::events::{isolate, make_client, output, said};
use crate::events_users::{POOL, events, pool_of, run};
use crate::peers;

/// A pool with the user ada, who signed in with this device.
async fn with_device(device: &str) -> cognito_auth_simulator::Simulation {
    let simulation = pool_of(&[("ada", 0)]).await;
    simulation.world(|world| {
        let mut event = world.sign_in(UnixMillis(world.now().0 - 60_000));
        let context = EventContext { device_name: Some(device.into()), ..event.context.unwrap_or_default() };
        event.context = Some(context);
        world.arrive(POOL, "ada", &event);
    });
    simulation
}

#[tokio::test]
async fn a_csv_file_is_whole_or_not_there_and_computes_nothing() {
    let simulation = with_device("=cmd|' /C calc'!A1").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.csv");
    let options = ["--username", "ada", "--output", "csv", "--output-file", file.to_str().unwrap()];
    let (code, lines, error) = run(&simulation, &options).await;
    assert_eq!((code, lines.len(), error.as_str()), (0, 0, ""));
    let csv = fs::read_to_string(&file).unwrap();
    assert!(csv.starts_with("Username,CreationDate,EventType,"), "{csv}");
    assert!(csv.contains(",'=cmd|' /C calc'!A1,"), "{csv}");
    let nowhere = ["--username", "ada", "--output-file", "/nowhere/events"];
    let (code, _, error) = run(&simulation, &nowhere).await;
    assert_eq!(code, 1);
    assert!(error.contains("write beside /nowhere/events"), "{error}");
    let (code, _, _) =
        run(&simulation, &["--username", "nobody", "--output-file", folder.path().join("x").to_str().unwrap()]).await;
    assert_eq!(code, 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a failure leaves no file");
}

#[cfg(feature = "parquet")]
#[tokio::test]
async fn parquet_goes_to_a_file_or_through_a_pipe() {
    let simulation = pool_of(&[("ada", 130)]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.parquet");
    let options = ["--username", "ada", "--output", "parquet"];
    let piped = output(events(&simulation, &options)).await;
    assert!(piped.status.success());
    let (code, _, error) = run(&simulation, &[&options[..], &["--output-file", file.to_str().unwrap()]].concat()).await;
    assert_eq!(code, 0, "{error}");
    let written = fs::read(&file).unwrap();
    assert!(written.starts_with(b"PAR1") && written.ends_with(b"PAR1"));
    assert_eq!(written, piped.stdout);
    use parquet::file::reader::FileReader as _;
    let reader = parquet::file::reader::SerializedFileReader::new(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 130);
}

#[tokio::test]
async fn a_table_fits_the_terminal_and_nothing_is_cut_elsewhere() {
    if !peers::has("script") {
        return;
    }
    let simulation = with_device("東京のとても長い名前のブラウザー 126, Windows 10 Professional").await;
    let line = format!(
        "stty cols 100; {:?} events --user-pool-id {POOL} --username ada --output table",
        env!("CARGO_BIN_EXE_cognito-auth-exporter")
    );
    let mut command = peers::on_terminal(&line);
    isolate(&mut command);
    command.envs([("PATH", "/usr/bin:/bin"), ("SHELL", "/bin/sh"), ("TERM", "xterm")]);
    make_client(&mut command, &simulation);
    let (code, shown, _) = said(&output(command).await);
    assert_eq!(code, 0);
    let shown: Vec<_> = shown.iter().map(|line| line.trim_end()).collect();
    assert!(shown[0].starts_with("cognito-auth-exporter: the terminal is too narrow for: "), "{shown:?}");
    assert!(shown[1].starts_with("CreationDate") && shown[2].contains('…'), "{shown:?}");
    assert!(shown[1..].iter().all(|line| unicode_width::UnicodeWidthStr::width(*line) <= 100), "{shown:?}");
    let (_, lines, _) = run(&simulation, &["--username", "ada", "--output", "table"]).await;
    assert!(lines[0].contains("EventId") && !lines[1].contains('…'), "{lines:?}");
}

#[tokio::test]
async fn what_is_no_regular_file_is_not_replaced_and_a_link_is_followed() {
    let simulation = pool_of(&[("ada", 1)]).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("far")).unwrap();
    fs::write(at("far/file"), "earlier\n").unwrap();
    fs::set_permissions(at("far/file"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(at("far/file"), at("link")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let write =
        async |name: &str| run(&simulation, &["--username", "ada", "--output-file", at(name).to_str().unwrap()]).await;
    let (code, _, error) = write("pipe").await;
    assert_eq!(code, 2);
    assert!(error.contains("leave out --output-file, and redirect stdout to it"), "{error}");
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(write("far").await.0, 2);
    assert_eq!(write("link").await.0, 0);
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert!(fs::read_to_string(at("far/file")).unwrap().starts_with('{'));
    assert_eq!(fs::metadata(at("far/file")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(write("new").await.0, 0);
    assert_eq!(fs::metadata(at("new")).unwrap().permissions().mode() & 0o777, 0o600);
}
