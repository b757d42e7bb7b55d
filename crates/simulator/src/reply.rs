//! A response of the simulated service, and how it is sent to the client.

use std::time::Duration;

use cognito_auth_core::event::UnixMillis;

use super::fault::FaultKind;

/// A response and its [`Transmission`].
pub(super) struct ServiceReply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) error_type: Option<String>,
    pub(super) request_id: String,
    /// The Date header.
    pub(super) date: Option<UnixMillis>,
    pub(super) body: String,
    pub(super) transmission: Transmission,
}

/// How a response is sent to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transmission {
    /// Whole and at once.
    Whole,
    /// Whole, after a delay.
    After(Duration),
    /// Half of the body; then the connection ends.
    CutShort,
    /// Not at all; the connection is reset.
    Reset,
    /// Not at all; the connection stays open.
    Never,
}

impl ServiceReply {
    /// Applies a fault that changes the form of the response. `service::operations` applies those that change the
    /// content.
    pub(super) fn apply_fault(&mut self, fault: Option<&FaultKind>) {
        match fault {
            Some(FaultKind::Reset) => self.transmission = Transmission::Reset,
            Some(FaultKind::Hang) => self.transmission = Transmission::Never,
            Some(FaultKind::Slow(delay)) => self.transmission = Transmission::After(*delay),
            Some(FaultKind::CutConnection) => self.transmission = Transmission::CutShort,
            Some(FaultKind::CutJson) => self.body.truncate(self.body.floor_char_boundary(self.body.len() / 2)),
            Some(FaultKind::Html(status)) => {
                self.status = *status;
                self.content_type = "text/html";
                self.error_type = None;
                self.body = "<html><body><h1>Not what you asked for</h1></body></html>".to_owned();
            }
            _ => {}
        }
    }
}
