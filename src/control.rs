//! The control socket: commands on the state of a running exporter.
//!
//! A ledger has one process at a time. So a command that finds it in use asks the exporter that has it, over a Unix
//! socket in the state directory. The exporter runs the command on its own ledger and sends back what the command
//! prints. Which commands it runs, the caller of [`ControlSocket::serve`] decides.
//!
//! ```text
//! client                                          exporter
//! {"arguments": ["quarantine", "list"]}\n  ---->
//!                                          <----  {"out": "..."}\n  any number of these, in the order of printing
//!                                          <----  {"err": "..."}\n
//!                                          <----  {"exit": 0}\n     the last
//! ```
//!
//! The socket is for the exporter's own user and for root: the directory is the user's alone, and the kernel says who
//! connects. A client that reads slowly, writes without end or goes away costs its own command. So does a panic.

use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream as UnixStreamOfTokio};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// The socket's name in the state directory.
const NAME: &str = "control.sock";

/// Maximum number of commands at once. They are a person's, and each reads much of the ledger.
const COMMANDS_MAX: usize = 2;

/// Maximum size of a request in bytes. It has a command line, which a person has typed or a script has made.
const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// Size of the printed text in one reply, in bytes. A reader sees it soon, and a client holds little.
const REPLY_TEXT_BYTES: usize = 16 << 10;

/// Maximum size of one reply in bytes: every character escaped.
const REPLY_BYTES_MAX: u64 = 6 * REPLY_TEXT_BYTES as u64 + 64;

/// Time that a client has for its whole request, and for taking a reply. Longer than a person's terminal needs.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(5);

/// A request: the arguments of a command, without the program's name.
#[derive(Debug, Serialize, Deserialize)]
struct ControlRequest {
    arguments: Vec<String>,
}

/// A part of the answer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ControlReply {
    /// Text for stdout.
    Out(String),
    /// Text for stderr.
    Err(String),
    /// The exit status. Nothing follows.
    Exit(u8),
}

/// The socket of a running exporter.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Where a command prints.
pub struct CommandOutput<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// Messages for people.
    pub err: &'a mut dyn Write,
}

impl CommandOutput<'_> {
    /// Prints a message for people.
    pub fn say(&mut self, text: &str) {
        // If stderr is closed, there is no other place for the message.
        let _ = writeln!(self.err, "{text}");
    }
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandStatus {
    /// It did what it was asked to.
    Success,
    /// It failed, or found something wrong.
    Failure,
    /// It was not asked rightly, and did nothing.
    Usage,
}

impl CommandStatus {
    /// Returns the exit status of a process that ends so.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
        }
    }
}

impl From<CommandStatus> for ExitCode {
    fn from(status: CommandStatus) -> Self {
        Self::from(status.code())
    }
}

/// Runs a command of these arguments. It is called on a thread for blocking work.
pub type RunCommand = Arc<dyn Fn(Vec<String>, CommandOutput<'_>) -> CommandStatus + Send + Sync>;

impl ControlSocket {
    /// Listens in a state directory. The caller has the ledger in it, so a socket that is there is a dead process's.
    ///
    /// # Errors
    /// The socket cannot be made, for example because the path is longer than the system allows for one.
    pub fn bind(state: &Path) -> io::Result<Self> {
        let path = state.join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Serves commands until the stop. Then it removes the socket, and ends the commands that still print.
    pub async fn serve(self, run: RunCommand, stop: CancellationToken) {
        let mut commands = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = commands.join_next() => note_panic(ended),
                accepted = self.listener.accept(), if commands.len() < COMMANDS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let (run, stop) = (run.clone(), stop.clone());
                        let stream = of_our_user(stream);
                        commands.spawn_blocking(move || {
                            if let Err(error) = stream.and_then(|stream| converse(&stream, &run, &stop)) {
                                debug!(%error, "a command over the control socket ended early");
                            }
                        });
                    }
                    Err(error) => {
                        warn!(%error, "the control socket takes no commands at present");
                        tokio::time::sleep(CLIENT_WAIT_MAX).await;
                    }
                },
            }
        }
        // A client that finds no socket is told that the exporter stops, or is gone.
        let _ = std::fs::remove_file(&self.path);
        while let Some(ended) = commands.join_next().await {
            note_panic(ended);
        }
    }
}

/// Takes a connection of the exporter's own user or of root.
fn of_our_user(stream: UnixStreamOfTokio) -> io::Result<UnixStream> {
    let user = stream.peer_cred()?.uid();
    if user != 0 && user != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the client is another user's"));
    }
    stream.into_std()
}

/// Logs the panic of a command. Its connection is closed, and the exporter goes on: a person's command must not end it.
fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(failure) = ended
        && let Ok(panic) = failure.try_into_panic()
    {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        error!(panic = said.unwrap_or("without a message"), "a command over the control socket panicked");
    }
}

/// Reads a request, runs its command, and sends what it prints.
fn converse(stream: &UnixStream, run: &RunCommand, stop: &CancellationToken) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(CLIENT_WAIT_MAX))?;
    let request = read_request(RequestReader { stream, deadline: Instant::now() + CLIENT_WAIT_MAX })?;
    let mut out = ReplyWriter { stream, stop, reply: ControlReply::Out, torn: Vec::new() };
    let mut err = ReplyWriter { stream, stop, reply: ControlReply::Err, torn: Vec::new() };
    let exit = run(request.arguments, CommandOutput { out: &mut out, err: &mut err });
    out.finish()?;
    err.finish()?;
    send(stream, &ControlReply::Exit(exit.code()))
}

fn read_request(reader: RequestReader<'_>) -> io::Result<ControlRequest> {
    let mut line = String::new();
    BufReader::new(reader).take(REQUEST_BYTES_MAX).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Reads until a deadline. A client that sends one byte after the other does not move it.
struct RequestReader<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl io::Read for RequestReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client took too long to send its request"));
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

fn send(mut stream: &UnixStream, reply: &ControlReply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Sends what is written as replies. After the stop nothing can be written.
struct ReplyWriter<'a> {
    stream: &'a UnixStream,
    stop: &'a CancellationToken,
    reply: fn(String) -> ControlReply,
    /// The first bytes of a character whose last ones are not written yet: at most three.
    torn: Vec<u8>,
}

impl ReplyWriter<'_> {
    /// Sends the bytes that wait for the rest of a character. The command has ended, so no rest comes.
    fn finish(self) -> io::Result<()> {
        if self.torn.is_empty() {
            return Ok(());
        }
        send(self.stream, &(self.reply)(String::from_utf8_lossy(&self.torn).into_owned()))
    }
}

/// Returns how many bytes at the end begin a character that is not whole.
fn torn_length(bytes: &[u8]) -> usize {
    let last = bytes.iter().rev().take(3).zip(1..);
    let first_of_character = last.into_iter().find(|(byte, _)| **byte & 0b1100_0000 != 0b1000_0000);
    first_of_character.map_or(0, |(byte, length)| {
        let whole = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        if length < whole { length } else { 0 }
    })
}

impl Write for ReplyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the exporter stops"));
        }
        let (taken, _) = bytes.split_at(bytes.len().min(REPLY_TEXT_BYTES - self.torn.len()));
        let mut text = std::mem::take(&mut self.torn);
        text.extend_from_slice(taken);
        self.torn = text.split_off(text.len() - torn_length(&text));
        if !text.is_empty() {
            send(self.stream, &(self.reply)(String::from_utf8_lossy(&text).into_owned()))?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Error of a command that was sent to a running exporter.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The connection failed.
    #[error("the running exporter did not answer")]
    Connection(#[source] io::Error),
    /// The exporter ended the answer early, because it stops.
    #[error("the running exporter ended before the command did; try again")]
    Cut,
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Has the exporter that uses this state run a command, and prints what it prints. Returns its exit status; None if no
/// exporter listens there.
///
/// # Errors
/// The exporter went away, or the output cannot be written.
pub fn request(
    state: &Path,
    arguments: Vec<String>,
    output: &mut CommandOutput<'_>,
) -> Result<Option<u8>, ControlError> {
    let stream = match UnixStream::connect(state.join(NAME)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(ControlError::Connection(error)),
    };
    let mut request = serde_json::to_vec(&ControlRequest { arguments }).map_err(io::Error::from);
    if let Ok(request) = &mut request {
        request.push(b'\n');
    }
    request.and_then(|request| (&stream).write_all(&request)).map_err(ControlError::Connection)?;
    let mut replies = BufReader::new(&stream);
    loop {
        let mut line = String::new();
        (&mut replies).take(REPLY_BYTES_MAX).read_line(&mut line).map_err(ControlError::Connection)?;
        match serde_json::from_str(&line).map_err(|_| ControlError::Cut)? {
            ControlReply::Out(text) => output.out.write_all(text.as_bytes()).map_err(ControlError::Print)?,
            ControlReply::Err(text) => output.err.write_all(text.as_bytes()).map_err(ControlError::Print)?,
            ControlReply::Exit(code) => return Ok(Some(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves `run` in a state directory while `ask` runs, and returns what `ask` returns.
    async fn served<T: Send + 'static>(
        run: impl Fn(Vec<String>, CommandOutput<'_>) -> CommandStatus + Send + Sync + 'static,
        ask: impl FnOnce(&Path, &CancellationToken) -> T + Send + 'static,
    ) -> T {
        let state = tempfile::tempdir().unwrap();
        let (path, stop) = (state.path().to_owned(), CancellationToken::new());
        let socket = ControlSocket::bind(&path).unwrap();
        let stops = stop.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let answer = ask(&path, &stops);
            stops.cancel();
            answer
        });
        socket.serve(Arc::new(run), stop).await;
        assert!(!state.path().join(NAME).exists());
        asked.await.unwrap()
    }

    fn asked(state: &Path, arguments: &[&str]) -> (Result<Option<u8>, ControlError>, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let code = request(state, arguments, &mut CommandOutput { out: &mut out, err: &mut err });
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[tokio::test]
    async fn a_command_prints_here_what_it_prints_there_and_ends_with_its_status() {
        let run = |arguments: Vec<String>, mut output: CommandOutput<'_>| {
            writeln!(output.out, "{}", arguments.join("+")).unwrap();
            output.say("running");
            CommandStatus::Usage
        };
        let (code, out, err) = served(run, |state, _| asked(state, &["state", "show", "a b\n"])).await;
        assert_eq!((code.unwrap(), out.as_str(), err.as_str()), (Some(2), "state+show+a b\n\n", "running\n"));
    }

    #[tokio::test]
    async fn a_long_text_arrives_whole_in_many_replies() {
        let text: String = ["x", "é", "東", "\u{1}"].concat().repeat(20_000);
        let sent = text.clone();
        let run = move |_: Vec<String>, output: CommandOutput<'_>| {
            output.out.write_all(sent.as_bytes()).unwrap();
            CommandStatus::Success
        };
        let (code, out, _) = served(run, |state, _| asked(state, &[])).await;
        assert_eq!(code.unwrap(), Some(0));
        assert!(out == text);
    }

    #[tokio::test]
    async fn a_character_that_is_written_in_parts_arrives_whole_and_half_a_one_at_the_end_is_shown_as_such() {
        let run = |_: Vec<String>, output: CommandOutput<'_>| {
            for byte in "x é 東 😀!".bytes() {
                output.out.write_all(&[byte]).unwrap();
            }
            output.err.write_all(b"bad \xff, torn \xe6\x9d").unwrap();
            CommandStatus::Success
        };
        let (code, out, err) = served(run, |state, _| asked(state, &[])).await;
        assert_eq!((code.unwrap(), out.as_str()), (Some(0), "x é 東 😀!"));
        assert_eq!(err, "bad \u{fffd}, torn \u{fffd}");
    }

    #[test]
    fn the_deadline_is_of_the_whole_request_however_much_a_client_sends() {
        let (client, server) = UnixStream::pair().unwrap();
        (&client).write_all(b"{\"arguments\": []}\n").unwrap();
        let mut reader = RequestReader { stream: &server, deadline: Instant::now() + CLIENT_WAIT_MAX };
        let mut first = [0];
        reader.read_exact(&mut first).unwrap();
        // The deadline passes, while more can be read.
        reader.deadline = Instant::now();
        assert_eq!(reader.read(&mut first).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(read_request(reader).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_command_that_panics_ends_its_connection_and_the_next_one_is_served() {
        let run = |arguments: Vec<String>, _: CommandOutput<'_>| {
            assert_eq!(arguments, ["a"], "as this test wants");
            CommandStatus::Success
        };
        let answers = served(run, |state, _| {
            let panicked = (0..=COMMANDS_MAX).map(|_| asked(state, &["b"]).0).collect::<Vec<_>>();
            (panicked, asked(state, &["a"]).0)
        })
        .await;
        assert!(answers.0.iter().all(|answer| matches!(answer, Err(ControlError::Cut))), "{answers:?}");
        assert_eq!(answers.1.unwrap(), Some(0));
    }

    #[tokio::test]
    async fn without_an_exporter_there_is_no_answer_and_a_dead_ones_socket_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        assert!(asked(state.path(), &[]).0.unwrap().is_none());
        drop(ControlSocket::bind(state.path()).unwrap());
        assert!(state.path().join(NAME).exists() && asked(state.path(), &[]).0.unwrap().is_none());
        assert!(ControlSocket::bind(state.path()).is_ok());
    }

    #[tokio::test]
    async fn a_stop_ends_a_command_that_prints_without_end() {
        let run = |_: Vec<String>, output: CommandOutput<'_>| {
            while output.out.write_all(b"more\n").is_ok() {}
            CommandStatus::Failure
        };
        let code = served(run, |state, stop| {
            let stream = UnixStream::connect(state.join(NAME)).unwrap();
            (&stream).write_all(b"{\"arguments\": []}\n").unwrap();
            let mut first = String::new();
            BufReader::new(&stream).read_line(&mut first).unwrap();
            stop.cancel();
            serde_json::from_str::<ControlReply>(&first).unwrap()
        })
        .await;
        assert_eq!(code, ControlReply::Out("more\n".into()));
    }

    #[tokio::test]
    async fn what_is_no_request_runs_nothing_and_the_next_one_is_served() {
        let run = |arguments: Vec<String>, _: CommandOutput<'_>| {
            assert_eq!(arguments, ["a", "b"]);
            CommandStatus::Usage
        };
        let code = served(run, |state, _| {
            let endless = [b'x'; 100_000].as_slice();
            for nonsense in [b"\n".as_slice(), b"GET / HTTP/1.1\r\n", b"{\"arguments\": 7}\n", b"", endless] {
                let stream = UnixStream::connect(state.join(NAME)).unwrap();
                // The exporter may have closed it before everything was written.
                let _ = (&stream).write_all(nonsense);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut answer = String::new();
                let _ = BufReader::new(&stream).read_to_string(&mut answer);
                assert_eq!(answer, "");
            }
            asked(state, &["a", "b"]).0
        })
        .await;
        assert_eq!(code.unwrap(), Some(2));
    }
}
