//! How a copy of a function does.

/// How the calls of a copy went of late. What does not do well is chosen last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum EndpointHealth {
    /// Nothing is known against it.
    #[default]
    Good,
    /// It failed call after call a while ago, and gets a few again to show how it does.
    Trial,
    /// It fails call after call, or its node seems to be gone.
    Failing,
}
