//! The name of a log group, as a person or AWS writes it: a name, or an ARN with or without `:*` at its end.

/// A log group, by its name or its ARN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogGroup(String);

impl LogGroup {
    /// Takes a name or an ARN.
    pub fn new(text: &str) -> Self {
        Self(text.strip_suffix(":*").unwrap_or(text).to_owned())
    }

    /// Returns the name or the ARN, without `:*` at its end: `logGroupIdentifier` takes no other form.
    pub fn identifier(&self) -> &str {
        &self.0
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        self.owner().map_or(&self.0, |(_, name)| name)
    }

    /// Returns whether the ARN is there, and not only the name.
    pub fn is_arn(&self) -> bool {
        self.owner().is_some()
    }

    /// Returns whether both may mean the same group. A name means the group of that name in any account and region.
    pub fn may_be(&self, other: &Self) -> bool {
        match (self.owner(), other.owner()) {
            (Some(one), Some(other)) => one == other,
            _ => self.name() == other.name(),
        }
    }

    /// Splits an ARN into the part before its name (partition, region and account) and the name.
    fn owner(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix("arn:")?.split_once(":log-group:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "/aws/vendedlogs/cognito";
    const ARN: &str = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/vendedlogs/cognito";

    #[test]
    fn a_group_has_a_name_however_it_is_written() {
        for (text, identifier, is_arn) in [(NAME, NAME, false), (ARN, ARN, true), (&*format!("{ARN}:*"), ARN, true)] {
            let group = LogGroup::new(text);
            assert_eq!((group.name(), group.identifier(), group.is_arn()), (NAME, identifier, is_arn), "{text}");
        }
    }

    #[test]
    fn a_name_means_any_group_of_that_name_and_an_arn_means_one() {
        let group = LogGroup::new;
        let elsewhere = group(&ARN.replace("111122223333", "444455556666"));
        for (one, other, may_be) in [
            (group(NAME), group(ARN), true),
            (group(ARN), group(&format!("{ARN}:*")), true),
            (group(NAME), elsewhere.clone(), true),
            (group(ARN), elsewhere, false),
            (group(NAME), group("/aws/vendedlogs/cognito2"), false),
            (group(ARN), group("cognito"), false),
        ] {
            assert_eq!((one.may_be(&other), other.may_be(&one)), (may_be, may_be), "{one:?} {other:?}");
        }
    }
}
