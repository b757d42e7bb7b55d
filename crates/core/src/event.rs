//! One auth event as Cognito sends it: its words, its times, its identity, and its mutable part.
//!
//! Pure. Every member of an event is optional on the wire, and the documented enums have been incomplete for years. So
//! each word is kept verbatim ([`Word`]), and becomes a bounded label only where it is counted ([`Label`]). The adapter
//! in `source` builds an [`AuthEvent`] once, and the rest of the program uses only that. The documentation of the
//! members is at <https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_AuthEventType.html>.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Milliseconds since 1970-01-01T00:00:00Z, negative before it. Cognito's times have this resolution.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// Earlier than every event.
    pub const MIN: Self = Self(i64::MIN);
    /// Later than every event.
    pub const MAX: Self = Self(i64::MAX);

    /// The time `duration` later, at most [`UnixMillis::MAX`].
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time `duration` earlier, at least [`UnixMillis::MIN`].
    pub fn minus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to this one; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Rounds a time in seconds and nanoseconds to the nearest millisecond.
    ///
    /// The SDK reads the wire's floating point seconds and truncates them: 1723136049.929 arrives as .928999 and must
    /// become 929 again.
    pub fn from_secs_and_nanos(secs: i64, nanos: u32) -> Self {
        let millis = (i64::from(nanos) + 500_000) / 1_000_000;
        Self(secs.saturating_mul(1000).saturating_add(millis))
    }

    /// Seconds since the epoch, as in Prometheus timestamps.
    #[expect(clippy::cast_precision_loss, reason = "a gauge of seconds; exact to the millisecond for 285,000 years")]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

/// Shows the time as RFC 3339 in UTC with milliseconds. A time outside the years 0 to 9999 shows as its number of
/// milliseconds.
impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] =
            time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let in_years = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .filter(|time| (0..=9999).contains(&time.year()));
        let mut text = [0; "2024-08-08T16:54:09.929Z".len()];
        let is_written = in_years.is_some_and(|time| time.format_into(&mut &mut text[..], FORMAT).is_ok());
        match std::str::from_utf8(&text) {
            Ok(text) if is_written => f.write_str(text),
            _ => write!(f, "{} ms", self.0),
        }
    }
}

/// A list of words that the API documents.
pub trait Vocabulary: Copy + Eq + Ord + fmt::Debug + 'static {
    /// Every documented word, in the documentation's order.
    const ALL: &'static [Self];
    /// The word as the API writes it.
    fn as_str(self) -> &'static str;
}

macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($word:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[expect(missing_docs, reason = "the words are the API's own")]
        pub enum $name { $($word),+ }

        impl Vocabulary for $name {
            const ALL: &'static [Self] = &[$(Self::$word),+];
            fn as_str(self) -> &'static str {
                match self { $(Self::$word => stringify!($word)),+ }
            }
        }
    };
}

vocabulary! {
    /// The action of the user.
    EventType { SignIn, SignUp, ForgotPassword, PasswordChange, ResendCode }
}
vocabulary! {
    /// The result of the action, or that it has not ended yet.
    EventResponse { Pass, Fail, InProgress }
}
vocabulary! {
    /// The decision of threat protection.
    RiskDecision { NoRisk, AccountTakeover, Block }
}
vocabulary! {
    /// The risk that threat protection sees; absent for NoRisk.
    RiskLevel { Low, Medium, High }
}
vocabulary! {
    /// A challenge that the user was given.
    ChallengeName { Password, Mfa }
}
vocabulary! {
    /// The result of a challenge.
    ChallengeResponse { Success, Failure }
}
vocabulary! {
    /// The feedback of an administrator or the user.
    FeedbackValue { Valid, Invalid }
}

/// A word of the API: a documented one, or any other text, kept verbatim.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Word<V> {
    /// A documented word.
    Known(V),
    /// Any other, verbatim.
    Other(Box<str>),
}

impl<V: Vocabulary> Word<V> {
    /// Reads a word. Every text is one.
    pub fn parse(text: &str) -> Self {
        V::ALL
            .iter()
            .find(|known| known.as_str() == text)
            .map_or_else(|| Self::Other(text.into()), |known| Self::Known(*known))
    }

    /// The word's text, as Cognito sent it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(known) => known.as_str(),
            Self::Other(text) => text,
        }
    }
}

/// A word as a metric label. The number of labels is bounded, whatever Cognito sends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Label<V> {
    /// A documented word, shown as itself.
    Known(V),
    /// A word that this build does not know, shown as `other`.
    Other,
    /// No word, shown as `none`.
    Absent,
}

impl<V: Vocabulary> Label<V> {
    /// The label of a word that may be absent.
    pub fn of(word: Option<&Word<V>>) -> Self {
        match word {
            Some(Word::Known(known)) => Self::Known(*known),
            Some(Word::Other(_)) => Self::Other,
            None => Self::Absent,
        }
    }

    /// The label's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Known(known) => known.as_str(),
            Self::Other => "other",
            Self::Absent => "none",
        }
    }

    /// Every label that a documented event can have: each documented word, and [`Label::Absent`].
    pub fn documented() -> impl Iterator<Item = Self> {
        V::ALL.iter().map(|known| Self::Known(*known)).chain([Self::Absent])
    }

    /// The number that stands for this label in stored records: 0 absent, 1 other, then the words in order.
    ///
    /// A word may be added at a vocabulary's end. None may be moved or removed.
    pub fn code(self) -> u32 {
        match self {
            Self::Absent => 0,
            Self::Other => 1,
            Self::Known(word) => {
                let position = V::ALL.iter().position(|known| *known == word).unwrap_or_default();
                u32::try_from(position).unwrap_or_default() + 2
            }
        }
    }

    /// The label that a stored number stands for. A number that this build does not know is `other`.
    pub fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Absent,
            1 => Self::Other,
            _ => V::ALL.get(code as usize - 2).map_or(Self::Other, |known| Self::Known(*known)),
        }
    }
}

/// The findings of threat protection (`EventRisk`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventRisk {
    /// `RiskDecision`.
    pub decision: Option<Word<RiskDecision>>,
    /// `RiskLevel`.
    pub level: Option<Word<RiskLevel>>,
    /// `CompromisedCredentialsDetected`.
    pub compromised_credentials: Option<bool>,
}

/// One entry of `ChallengeResponses`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Challenge {
    /// `ChallengeName`.
    pub name: Option<Word<ChallengeName>>,
    /// `ChallengeResponse`.
    pub response: Option<Word<ChallengeResponse>>,
}

/// The user's address, device and location (`EventContextData`). Its Debug shows nothing of them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EventContext {
    /// `IpAddress`.
    pub ip_address: Option<String>,
    /// `DeviceName`, such as "Chrome 126, Windows 10".
    pub device_name: Option<String>,
    /// `Timezone`, such as "-07:00".
    pub timezone: Option<String>,
    /// `City`. Cognito's text "null" is absent here.
    pub city: Option<String>,
    /// `Country`, an English name. Cognito's text "null" is absent here.
    pub country: Option<String>,
}

impl fmt::Debug for EventContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventContext(personal data)")
    }
}

/// The feedback on an event (`EventFeedback`). Its Debug does not show the provider.
#[derive(Clone, PartialEq, Eq)]
pub struct EventFeedback {
    /// `FeedbackValue`.
    pub value: Option<Word<FeedbackValue>>,
    /// `Provider`: an administrator's or the user's name.
    pub provider: Option<String>,
    /// `FeedbackDate`.
    pub date: Option<UnixMillis>,
}

impl fmt::Debug for EventFeedback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventFeedback").field("value", &self.value).finish_non_exhaustive()
    }
}

/// One entry of a user's history.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthEvent {
    /// `EventId`, a UUID in practice.
    pub id: Option<String>,
    /// `EventType`.
    pub event_type: Option<Word<EventType>>,
    /// `CreationDate`, rounded to milliseconds.
    pub creation_date: Option<UnixMillis>,
    /// `EventResponse`.
    pub response: Option<Word<EventResponse>>,
    /// `EventRisk`.
    pub risk: Option<EventRisk>,
    /// `ChallengeResponses`, in the API's order.
    pub challenges: Vec<Challenge>,
    /// `EventContextData`.
    pub context: Option<EventContext>,
    /// `EventFeedback`.
    pub feedback: Option<EventFeedback>,
}

/// An event's identity within its user pool: 128 bits of a SHA-256 of its EventId, or of its immutable part where it
/// has no EventId. Its size does not depend on what the service sends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(pub [u8; 16]);

impl fmt::Debug for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A digest of an event's mutable part: 64 bits of a SHA-256. Two sightings of an event with the same digest are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MutableDigest(pub u64);

impl fmt::Debug for MutableDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for MutableDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl AuthEvent {
    /// The event's identity within its pool.
    pub fn key(&self) -> EventKey {
        let mut digest = FieldDigest::new();
        match &self.id {
            Some(id) => digest.text(Some(id)),
            None => {
                digest.text(None);
                digest.text(self.event_type.as_ref().map(Word::as_str));
                digest.time(self.creation_date);
                let context = self.context.clone().unwrap_or_default();
                for member in [context.ip_address, context.device_name, context.timezone, context.city, context.country]
                {
                    digest.text(member.as_deref());
                }
            }
        }
        EventKey(digest.finish())
    }

    /// A digest of the members that may change after the first sight: EventResponse, EventRisk, ChallengeResponses and
    /// EventFeedback.
    pub fn mutable_digest(&self) -> MutableDigest {
        let mut digest = FieldDigest::new();
        digest.text(self.response.as_ref().map(Word::as_str));
        let risk = self.risk.clone().unwrap_or_default();
        digest.text(risk.decision.as_ref().map(Word::as_str));
        digest.text(risk.level.as_ref().map(Word::as_str));
        digest.text(risk.compromised_credentials.map(|found| if found { "true" } else { "false" }));
        for challenge in &self.challenges {
            digest.text(challenge.name.as_ref().map(Word::as_str));
            digest.text(challenge.response.as_ref().map(Word::as_str));
        }
        if let Some(feedback) = &self.feedback {
            digest.text(Some("feedback"));
            digest.text(feedback.value.as_ref().map(Word::as_str));
            digest.text(feedback.provider.as_deref());
            digest.time(feedback.date);
        }
        MutableDigest(digest.finish_short())
    }

    /// A digest of the words of the mutable part that both Cognito's API and its export can tell. Details that differ
    /// between the two, such as the date of feedback, are not in it.
    pub fn shared_digest(&self) -> MutableDigest {
        let mut digest = FieldDigest::new();
        digest.text(Some("shared"));
        digest.text(self.response.as_ref().map(Word::as_str));
        let risk = self.risk.clone().unwrap_or_default();
        digest.text(risk.decision.as_ref().map(Word::as_str));
        digest.text(risk.level.as_ref().map(Word::as_str));
        digest.text((risk.compromised_credentials == Some(true)).then_some("compromised"));
        for challenge in &self.challenges {
            digest.text(challenge.name.as_ref().map(Word::as_str));
            digest.text(challenge.response.as_ref().map(Word::as_str));
        }
        let feedback = self.feedback.as_ref().and_then(|feedback| feedback.value.as_ref());
        digest.text(Some("feedback"));
        digest.text(feedback.map(Word::as_str));
        MutableDigest(digest.finish_short())
    }

    /// The event as the counters see it.
    pub fn facts(&self) -> Facts {
        let risk = self.risk.as_ref();
        Facts {
            event_type: Label::of(self.event_type.as_ref()),
            response: Label::of(self.response.as_ref()),
            decision: Label::of(risk.and_then(|risk| risk.decision.as_ref())),
            level: Label::of(risk.and_then(|risk| risk.level.as_ref())),
            compromised: risk.and_then(|risk| risk.compromised_credentials).unwrap_or(false),
            challenges: self
                .challenges
                .iter()
                .take(Facts::CHALLENGES_MAX)
                .map(|challenge| (Label::of(challenge.name.as_ref()), Label::of(challenge.response.as_ref())))
                .collect(),
            feedback: Label::of(self.feedback.as_ref().and_then(|feedback| feedback.value.as_ref())),
        }
    }

    /// Whether the event still waits for its outcome.
    pub fn in_progress(&self) -> bool {
        self.response == Some(Word::Known(EventResponse::InProgress))
    }
}

/// An event as the counters see it: labels only, no personal data. The cursor stores it, so that a revision can tell
/// which outcome it replaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// EventType.
    pub event_type: Label<EventType>,
    /// EventResponse.
    pub response: Label<EventResponse>,
    /// RiskDecision.
    pub decision: Label<RiskDecision>,
    /// RiskLevel.
    pub level: Label<RiskLevel>,
    /// CompromisedCredentialsDetected; false where absent.
    pub compromised: bool,
    /// ChallengeResponses, at most [`Facts::CHALLENGES_MAX`].
    pub challenges: Vec<(Label<ChallengeName>, Label<ChallengeResponse>)>,
    /// FeedbackValue.
    pub feedback: Label<FeedbackValue>,
}

impl Facts {
    /// The largest number of ChallengeResponses that are counted. A sign-in has two. The bound keeps a stored cursor
    /// small, whatever Cognito sends.
    pub const CHALLENGES_MAX: usize = 16;

    /// The event's outcome: EventType, EventResponse and RiskDecision.
    pub fn outcome(&self) -> Outcome {
        Outcome { event_type: self.event_type, response: self.response, decision: self.decision }
    }

    /// Whether `told`, the same event as another source tells it, changes one of these facts. A fact that is absent
    /// there, or a word that this build does not know, tells nothing: the source may have no such fact, or another word
    /// for it.
    pub fn are_changed_by(&self, told: &Self) -> bool {
        fn differs<V: Vocabulary>(before: Label<V>, told: Label<V>) -> bool {
            matches!(told, Label::Known(_)) && told != before
        }
        let is_added = |entry: &&(Label<ChallengeName>, Label<ChallengeResponse>)| {
            matches!(entry.0, Label::Known(_)) && !self.challenges.contains(entry)
        };
        differs(self.response, told.response)
            || differs(self.decision, told.decision)
            || differs(self.level, told.level)
            || differs(self.feedback, told.feedback)
            || (told.compromised && !self.compromised)
            || told.challenges.iter().any(|entry| is_added(&entry))
    }

    /// These facts with those that another source tells.
    #[must_use]
    pub fn changed_by(&self, told: &Self) -> Self {
        fn newer<V: Vocabulary>(before: Label<V>, told: Label<V>) -> Label<V> {
            if matches!(told, Label::Known(_)) || before == Label::Absent { told } else { before }
        }
        Self {
            event_type: newer(self.event_type, told.event_type),
            response: newer(self.response, told.response),
            decision: newer(self.decision, told.decision),
            // The level belongs to the decision.
            level: match told.decision {
                Label::Known(_) if told.decision != self.decision => told.level,
                _ => newer(self.level, told.level),
            },
            compromised: self.compromised || told.compromised,
            challenges: self.challenges_with(&told.challenges),
            feedback: newer(self.feedback, told.feedback),
        }
    }

    /// These challenges and those that another source tells besides. None is removed: a source may not tell all of
    /// them, and one that came back would count again.
    fn challenges_with(
        &self,
        told: &[(Label<ChallengeName>, Label<ChallengeResponse>)],
    ) -> Vec<(Label<ChallengeName>, Label<ChallengeResponse>)> {
        let mut known = self.challenges.clone();
        let added = told.iter().filter(|entry| {
            let place = known.iter().position(|before| before == *entry);
            place.map(|place| known.swap_remove(place)).is_none()
        });
        self.challenges.iter().chain(added).take(Self::CHALLENGES_MAX).copied().collect()
    }
}

/// An event's outcome. `cognito_auth_events_total` counts each outcome of an event once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Outcome {
    /// EventType.
    pub event_type: Label<EventType>,
    /// EventResponse.
    pub response: Label<EventResponse>,
    /// RiskDecision.
    pub decision: Label<RiskDecision>,
}

/// A SHA-256 over fields, each with its presence and length, so that no two lists of fields give the same input.
struct FieldDigest(Sha256);

impl FieldDigest {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn text(&mut self, field: Option<&str>) {
        match field {
            None => self.0.update([0]),
            Some(text) => {
                self.0.update([1]);
                self.0.update((text.len() as u64).to_be_bytes());
                self.0.update(text.as_bytes());
            }
        }
    }

    fn time(&mut self, field: Option<UnixMillis>) {
        match field {
            None => self.0.update([0]),
            Some(time) => {
                self.0.update([1]);
                self.0.update(time.0.to_be_bytes());
            }
        }
    }

    fn finish(self) -> [u8; 16] {
        let mut first = [0; 16];
        first.copy_from_slice(&self.0.finalize()[..16]);
        first
    }

    fn finish_short(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.finish();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in() -> AuthEvent {
        AuthEvent {
            id: Some("768d375c-ee6c-435e-a005-25c4981565c3".into()),
            event_type: Some(Word::parse("SignIn")),
            creation_date: Some(UnixMillis(1_723_136_049_929)),
            response: Some(Word::parse("InProgress")),
            ..AuthEvent::default()
        }
    }

    #[test]
    fn a_truncated_wire_time_comes_out_right_to_the_millisecond() {
        assert_eq!(UnixMillis::from_secs_and_nanos(1_723_136_049, 928_999_900), UnixMillis(1_723_136_049_929));
        assert_eq!(UnixMillis::from_secs_and_nanos(-2, 999_999_999), UnixMillis(-1000));
        assert_eq!(UnixMillis::from_secs_and_nanos(1, 499_999), UnixMillis(1000));
        assert_eq!(UnixMillis::from_secs_and_nanos(1, 500_000), UnixMillis(1001));
        assert_eq!(UnixMillis(1_723_136_049_929).to_string(), "2024-08-08T16:54:09.929Z");
        assert_eq!(UnixMillis(i64::MAX).to_string(), format!("{} ms", i64::MAX));
    }

    /// Facts of a sign-in with this response, decision and level.
    fn facts(response: &str, decision: &str, level: &str, challenges: &[(&str, &str)]) -> Facts {
        let word = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let challenge = |&(name, response): &(&str, &str)| Challenge {
            name: word(name).map(|name| Word::parse(&name)),
            response: word(response).map(|response| Word::parse(&response)),
        };
        let event = AuthEvent {
            response: word(response).map(|text| Word::parse(&text)),
            risk: Some(EventRisk {
                decision: word(decision).map(|text| Word::parse(&text)),
                level: word(level).map(|text| Word::parse(&text)),
                compromised_credentials: None,
            }),
            challenges: challenges.iter().map(challenge).collect(),
            ..sign_in()
        };
        event.facts()
    }

    #[test]
    fn facts_are_changed_by_what_another_source_knows_and_not_by_what_it_lacks_or_words_differently() {
        let before = facts("Pass", "NoRisk", "Low", &[("Password", "Success")]);
        let same = [
            before.clone(),
            facts("Pass", "", "", &[]),
            facts("", "PASS", "low", &[]),
            facts("Pass", "NoRisk", "Low", &[("PASSWORD", "SUCCESS")]),
        ];
        for told in same {
            assert!(!before.are_changed_by(&told), "{told:?}");
        }
        let other = [
            facts("Fail", "NoRisk", "Low", &[("Password", "Success")]),
            facts("Pass", "AccountTakeover", "Low", &[]),
            facts("Pass", "NoRisk", "High", &[]),
            facts("Pass", "NoRisk", "Low", &[("Mfa", "Success")]),
            Facts { compromised: true, ..before.clone() },
            Facts { feedback: Label::Known(FeedbackValue::Valid), ..before.clone() },
        ];
        for told in other {
            assert!(before.are_changed_by(&told), "{told:?}");
            let after = before.changed_by(&told);
            assert!(after != before && !after.are_changed_by(&told), "{told:?}");
        }
    }

    #[test]
    fn changed_facts_keep_what_the_other_source_lacks() {
        let before = Facts {
            feedback: Label::Known(FeedbackValue::Valid),
            compromised: true,
            ..facts("InProgress", "AccountTakeover", "High", &[("Password", "Success"), ("Mfa", "")])
        };
        let after = before.changed_by(&facts("Pass", "", "", &[]));
        assert_eq!(after, Facts { response: Label::Known(EventResponse::Pass), ..before.clone() });
        let level = |decision, level| before.changed_by(&facts("Pass", decision, level, &[])).level;
        assert_eq!(level("NoRisk", ""), Label::Absent, "the level belongs to the decision");
        assert_eq!(level("AccountTakeover", ""), before.level);
    }

    #[test]
    fn a_challenge_that_one_source_leaves_out_does_not_count_again_when_the_other_tells_it() {
        let (all, some) = ([("Password", "Success"), ("Mfa", "Success")], [("Password", "Success")]);
        let before = facts("InProgress", "NoRisk", "", &all);
        let after = before.changed_by(&facts("Pass", "NoRisk", "", &some));
        assert_eq!(after, facts("Pass", "NoRisk", "", &all));
        assert!(!after.are_changed_by(&facts("Pass", "NoRisk", "", &all)));
        let twice = [("Mfa", "Failure"), ("Mfa", "Failure")];
        let counted =
            |before: &[_], told: &[_]| facts("", "", "", before).changed_by(&facts("", "", "", told)).challenges;
        assert_eq!(counted(&twice[..1], &twice).len(), 2, "equal entries are entries of their own");
        let many = [("Mfa", "Failure"); Facts::CHALLENGES_MAX];
        assert_eq!(counted(&many, &some).len(), Facts::CHALLENGES_MAX);
    }

    #[test]
    fn an_unknown_word_is_kept_verbatim_and_counted_as_other() {
        let word = Word::<RiskDecision>::parse("Quarantäne");
        assert_eq!(word.as_str(), "Quarantäne");
        assert_eq!(Label::of(Some(&word)).as_str(), "other");
        assert_eq!(Label::<RiskDecision>::of(None).as_str(), "none");
    }

    #[test]
    fn every_label_survives_its_code_and_a_newer_builds_word_is_other() {
        for label in Label::<EventType>::documented().chain([Label::Other]) {
            assert_eq!(Label::from_code(label.code()), label);
        }
        assert_eq!(Label::<EventType>::from_code(99), Label::Other);
    }

    #[test]
    fn sixteen_challenges_of_an_event_are_counted_and_no_more() {
        let mut event = sign_in();
        event.challenges = vec![Challenge { name: Some(Word::parse("Mfa")), response: None }; 17];
        assert_eq!(event.facts().challenges, vec![(Label::Known(ChallengeName::Mfa), Label::Absent); 16]);
    }

    #[test]
    fn only_the_word_in_progress_waits_for_an_outcome() {
        for (response, waits) in
            [(Some("InProgress"), true), (Some("Pass"), false), (Some("Paused"), false), (None, false)]
        {
            let event = AuthEvent { response: response.map(Word::parse), ..sign_in() };
            assert_eq!(event.in_progress(), waits, "{response:?}");
        }
    }

    #[test]
    fn the_key_stays_and_the_digest_moves_when_the_mutable_part_changes() {
        let before = sign_in();
        let mut changes = vec![];
        for change in [
            |event: &mut AuthEvent| event.response = Some(Word::parse("Pass")),
            |event: &mut AuthEvent| {
                event.risk = Some(EventRisk { compromised_credentials: Some(false), ..EventRisk::default() });
            },
            |event: &mut AuthEvent| event.challenges.push(Challenge { name: Some(Word::parse("Mfa")), response: None }),
            |event: &mut AuthEvent| event.feedback = Some(EventFeedback { value: None, provider: None, date: None }),
        ] {
            let mut after = before.clone();
            change(&mut after);
            assert_eq!(after.key(), before.key());
            changes.push(after.mutable_digest());
        }
        changes.push(before.mutable_digest());
        changes.sort();
        changes.dedup();
        assert_eq!(changes.len(), 5, "each change has a digest of its own");
    }

    #[test]
    fn keys_and_digests_are_the_same_in_every_build() {
        let (full, bare) = (crate::fixtures::full_entry().event, AuthEvent::default());
        let without_id = AuthEvent { id: None, ..full.clone() };
        // Computed by hand. Stored cursors rely on these values: never change them.
        assert_eq!(full.key().to_string(), "95b68465023e016a2771395593306cfd");
        assert_eq!(without_id.key().to_string(), "356bb5b4d926d32550ddd0d794ddbd05");
        assert_eq!(bare.key().to_string(), "af5570f5a1810b7af78caf4bc70a660f");
        assert_eq!(full.mutable_digest().to_string(), "b1fea028ec2a5ff2");
        assert_eq!(bare.mutable_digest().to_string(), "df3f619804a92fdb");
    }

    #[test]
    fn an_event_without_an_id_is_known_by_what_cannot_change() {
        let mut first = sign_in();
        first.id = None;
        let mut revised = first.clone();
        revised.response = Some(Word::parse("Fail"));
        assert_eq!(first.key(), revised.key());
        let mut elsewhere = first.clone();
        elsewhere.context = Some(EventContext { city: Some("Seattle".into()), ..EventContext::default() });
        assert_ne!(first.key(), elsewhere.key());
    }

    #[test]
    fn debug_shows_no_personal_data() {
        let mut event = sign_in();
        event.context = Some(EventContext { ip_address: Some("192.0.2.1".into()), ..EventContext::default() });
        event.feedback = Some(EventFeedback { value: None, provider: Some("someone".into()), date: None });
        let shown = format!("{event:?}");
        assert!(!shown.contains("192.0.2.1") && !shown.contains("someone"), "{shown}");
    }
}
