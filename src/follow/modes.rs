//! The mode of operation that comes next. Pure: the parent acts on it.
//!
//! ```text
//! Prefetch ── apply enabled ──> Catchup ── no script left ──> Drain ── no script left ──> Live
//!    ^                             ^                            |                          |
//!    |                             └──── lost the target ───────┴──── pipe stalled, or ────┘
//!    └─ (the start)                                                   lost the target
//! ```

/// How the changes go from the source to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamMode {
    /// Receive and transform write files; nothing may be applied yet.
    Prefetch,
    /// The same, while catchup applies file after file.
    Catchup,
    /// Nothing is received; what was received is applied.
    Drain,
    /// Receive, transform and apply, joined by pipes.
    Live,
    /// The end position was reached.
    Done,
}

/// Why a mode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The sentinel allows applying.
    ApplyEnabled,
    /// The sentinel does not allow it any more.
    ApplyDisabled,
    /// Apply has proven that everything up to the end position is on the target.
    EndPos,
    /// Catchup has applied every finished script.
    NoScriptLeft,
    /// Apply takes nothing from its pipe.
    PipeStalled,
    /// The target went away in the middle of live replay: what is on disk is the only complete record.
    LostTarget,
    /// Receive has reached the end position, and apply has taken all it was given without saying that it did too.
    Received,
}

impl StreamMode {
    /// What an operator is told.
    pub fn words(self) -> &'static str {
        match self {
            StreamMode::Prefetch => "prefetching changes; applying them is not enabled yet",
            StreamMode::Catchup => "prefetching changes and catching up",
            StreamMode::Drain => "applying what was received before live replay",
            StreamMode::Live => "replaying changes live",
            StreamMode::Done => "done",
        }
    }

    pub fn next(self, event: Event) -> StreamMode {
        match (self, event) {
            (_, Event::EndPos) => StreamMode::Done,
            (_, Event::ApplyDisabled) => StreamMode::Prefetch,
            (StreamMode::Prefetch, Event::ApplyEnabled) => StreamMode::Catchup,
            (StreamMode::Catchup, Event::NoScriptLeft | Event::Received) => StreamMode::Drain,
            (StreamMode::Drain, Event::NoScriptLeft) => StreamMode::Live,
            (_, Event::PipeStalled | Event::LostTarget) => StreamMode::Catchup,
            (StreamMode::Live, Event::NoScriptLeft | Event::Received) => StreamMode::Drain,
            (mode, Event::ApplyEnabled | Event::NoScriptLeft | Event::Received) => mode,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, StreamMode};

    #[test]
    fn a_migration_from_start_to_end() {
        let events = [
            Event::ApplyEnabled,
            Event::NoScriptLeft,
            Event::NoScriptLeft,
            Event::PipeStalled,
            Event::NoScriptLeft,
            Event::NoScriptLeft,
            Event::EndPos,
        ];
        let mut mode = StreamMode::Prefetch;
        let modes: Vec<StreamMode> = events
            .iter()
            .map(|event| {
                mode = mode.next(*event);
                mode
            })
            .collect();
        use StreamMode::{Catchup, Done, Drain, Live};
        assert_eq!(modes, [Catchup, Drain, Live, Catchup, Drain, Live, Done]);
    }

    #[test]
    fn disabling_apply_goes_back_to_prefetch() {
        for mode in [StreamMode::Catchup, StreamMode::Drain, StreamMode::Live] {
            assert_eq!(mode.next(Event::ApplyDisabled), StreamMode::Prefetch);
            assert_eq!(mode.next(Event::EndPos), StreamMode::Done);
        }
    }
}
