//! Whether a call that failed is sent again: a pure decision with a budget.

use std::time::{Duration, Instant};

use http::Method;
use swarmer_model::planted::{self, Bug};

use super::CallError;

/// How much a node may add to the load of the others by sending calls again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudgetConfig {
    /// Retries allowed for each call, on average; 0.2 is one in five.
    pub ratio: f64,
    /// Retries a second that are always allowed, so that a quiet node can retry at all.
    pub min_per_second: f64,
    /// The most seconds' worth of unused budget that is kept.
    pub window: Duration,
}

impl Default for RetryBudgetConfig {
    /// One in five, at least ten a second, kept for ten seconds: what finagle and linkerd made
    /// common.
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10.0, window: Duration::from_secs(10) }
    }
}

/// A token bucket that calls fill and retries empty. When everything fails, the load that retries
/// add stays at [`ratio`](RetryBudgetConfig::ratio).
#[derive(Debug, Clone)]
pub struct RetryBudget {
    config: RetryBudgetConfig,
    tokens: f64,
    /// Calls a second lately, to bound what is saved up.
    deposits: f64,
    last: Instant,
}

impl RetryBudget {
    /// A budget that has one second of its minimum saved up.
    pub fn new(config: RetryBudgetConfig, now: Instant) -> Self {
        Self { config, tokens: config.min_per_second, deposits: 0.0, last: now }
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = self.last.max(now);
        let window = self.config.window.as_secs_f64().max(1.0);
        // What came in long ago fades, so that an hour of calm does not pay for a storm.
        let keep = (1.0 - elapsed / window).max(0.0);
        self.deposits *= keep;
        self.tokens += elapsed * self.config.min_per_second;
        let most = self.config.min_per_second * window + self.deposits * self.config.ratio;
        self.tokens = self.tokens.min(most);
    }

    /// Counts one call (not one attempt).
    pub fn on_call(&mut self, now: Instant) {
        self.advance(now);
        self.deposits += 1.0;
        self.tokens += self.config.ratio;
    }

    /// Takes one retry out of the budget, if there is one.
    pub fn try_retry(&mut self, now: Instant) -> bool {
        self.advance(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// The most times that one call is sent.
pub const MAX_ATTEMPTS: u32 = 3;

/// What [`decide`] goes by.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The call's method.
    pub method: &'a Method,
    /// How the attempt failed.
    pub error: &'a CallError,
    /// Whether the body can be sent from its start again
    /// (see [`ReplayableBody`](super::ReplayableBody)).
    pub body_replayable: bool,
    /// How often the call was sent already, this attempt included.
    pub attempts: u32,
    /// The call's deadline.
    pub deadline: Instant,
}

/// Whether to send again, and if not, why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Send it again, to another endpoint if there is one.
    Again,
    /// It may have run, and running it twice may do harm.
    NotIdempotent,
    /// Its body is gone.
    BodyGone,
    /// This error says that trying again is no use.
    Final,
    /// [`MAX_ATTEMPTS`] were made.
    Attempts,
    /// There is no time left.
    Deadline,
    /// The budget is used up: the cluster is failing, and more load would not help it.
    Budget,
}

/// Whether a method may be carried out twice (RFC 9110, 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Decides about one failed attempt, and takes from the budget if the answer is
/// [`Retry::Again`].
pub fn decide(attempt: &Attempt<'_>, budget: &mut RetryBudget, now: Instant) -> Retry {
    let error = attempt.error;
    let idempotent = is_idempotent(attempt.method) || planted::is_on(Bug::RetrySentPost);
    if !error.retryable(true, true) {
        Retry::Final
    } else if !error.retryable(idempotent, true) {
        Retry::NotIdempotent
    } else if !error.retryable(idempotent, attempt.body_replayable) {
        Retry::BodyGone
    } else if attempt.attempts >= MAX_ATTEMPTS {
        Retry::Attempts
    } else if now >= attempt.deadline {
        Retry::Deadline
    } else if !budget.try_retry(now) {
        Retry::Budget
    } else {
        Retry::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt<'a>(method: &'a Method, error: &'a CallError, replayable: bool) -> Attempt<'a> {
        Attempt {
            method,
            error,
            body_replayable: replayable,
            attempts: 1,
            deadline: Instant::now() + Duration::from_secs(3600),
        }
    }

    #[test]
    fn only_what_cannot_do_harm_is_sent_again() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(RetryBudgetConfig::default(), now);
        let broken = CallError::Broken { reason: String::new() };
        let mut ask = |method, error: &CallError, replayable| {
            decide(&attempt(&method, error, replayable), &mut budget, now)
        };
        assert_eq!(ask(Method::GET, &broken, true), Retry::Again);
        assert_eq!(ask(Method::POST, &broken, true), Retry::NotIdempotent);
        assert_eq!(ask(Method::POST, &CallError::NotStarted, true), Retry::Again);
        assert_eq!(ask(Method::POST, &CallError::NotStarted, false), Retry::BodyGone);
        assert_eq!(ask(Method::PUT, &broken, false), Retry::BodyGone);
        assert_eq!(ask(Method::GET, &CallError::Deadline, true), Retry::Final);
        assert_eq!(ask(Method::GET, &CallError::Cancelled, true), Retry::Final);
        let refused = CallError::Refused { reason: String::new() };
        assert_eq!(ask(Method::GET, &refused, true), Retry::Final);
    }

    #[test]
    fn when_everything_fails_retries_stay_within_the_budget() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(RetryBudgetConfig::default(), start);
        let mut retries = 0;
        let calls = 100_000;
        for call in 0..calls {
            // 10,000 calls a second for ten seconds, each of which would like three retries.
            let now = start + Duration::from_micros(call * 100);
            budget.on_call(now);
            retries += (0..3).filter(|_| budget.try_retry(now)).count();
        }
        let share = retries as f64 / calls as f64;
        assert!((0.19..0.21).contains(&share), "{share}");
    }

    #[test]
    fn a_quiet_node_can_retry_and_calm_does_not_pay_for_a_storm() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(RetryBudgetConfig::default(), start);
        assert!(budget.try_retry(start));
        let later = start + Duration::from_secs(3600);
        let saved = (0..10_000).filter(|_| budget.try_retry(later)).count();
        assert_eq!(saved, 100);
    }
}
