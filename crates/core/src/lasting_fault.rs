//! Remembers the fault that was logged, so that a fault that lasts is logged once when it begins, changes and ends.

/// The fault that lasts, if there is one. The caller writes the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastingFault<F>(Option<F>);

impl<F> Default for LastingFault<F> {
    fn default() -> Self {
        Self(None)
    }
}

impl<F: PartialEq> LastingFault<F> {
    /// Notes a fault. Returns whether it is to be logged, because it has begun or is another one than before.
    pub fn failed(&mut self, fault: F) -> bool {
        let is_news = self.0.as_ref() != Some(&fault);
        self.0 = Some(fault);
        is_news
    }

    /// Returns whether a fault lasts.
    pub fn lasts(&self) -> bool {
        self.0.is_some()
    }

    /// Notes that there is no fault. Returns whether one has ended.
    pub fn succeeded(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_news_when_it_begins_changes_and_ends() {
        let mut fault = LastingFault::default();
        assert!(!fault.succeeded() && !fault.lasts(), "nothing has ended");
        assert_eq!(["a", "a", "b", "b", "a"].map(|text| fault.failed(text)), [true, false, true, false, true]);
        assert!(fault.lasts());
        assert_eq!([fault.succeeded(), fault.succeeded()], [true, false]);
        assert!(fault.failed("a"), "it has begun again");
    }
}
