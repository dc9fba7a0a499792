//! What the parent of `clone --follow` does next. Pure: the parent acts on it.
//!
//! A copy that was read in one snapshot is followed as soon as it is there. One that was resumed in another has a point where
//! its tables meet: changes are applied up to it, then the clone makes the rest (foreign keys, materialized views, all of
//! post-data), then applying goes on for good.
//!
//! ```text
//! Copying ── the clone ended ──────────────────────────────────────────────────────> Whole
//!    └────── it waits ──> Meeting ── met, or the end reached ──> Finishing ── ended ──┘
//! ```

/// How far the clone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clone {
    /// It runs, up to everything that each table needs for itself.
    Copying,
    /// It waits for changes to be applied.
    Meeting,
    /// It runs again, for the rest; nothing is applied.
    Finishing,
    /// There is nothing left of it.
    Whole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The clone's process ended well; it may have left the rest until the tables meet.
    CloneEnded { waits: bool },
    /// Everything up to the point where the tables meet is on the target.
    Met,
    /// The follow has reached its end position.
    FollowEnded,
}

/// What the parent has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let changes be applied.
    EnableApply,
    /// Start the clone once more.
    FinishClone,
    /// Apply may go beyond the point.
    ForgetMeeting,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    clone: Clone,
    has_followed: bool,
}

impl Default for Stages {
    fn default() -> Stages {
        Stages::new()
    }
}

impl Stages {
    pub fn new() -> Stages {
        Stages {
            clone: Clone::Copying,
            has_followed: false,
        }
    }

    /// Whether `Met` would mean anything now.
    pub fn awaits_meeting(&self) -> bool {
        self.clone == Clone::Meeting
    }

    pub fn step(&mut self, event: Event) -> Vec<Action> {
        use Action::{EnableApply, End, FinishClone, ForgetMeeting};
        self.has_followed |= event == Event::FollowEnded;
        let (next, mut actions) = match (self.clone, event) {
            (Clone::Copying, Event::CloneEnded { waits: false }) => {
                (Clone::Whole, vec![ForgetMeeting, EnableApply])
            }
            // It followed an end position that had been reached before: the tables have met.
            (Clone::Copying, Event::CloneEnded { waits: true }) if self.has_followed => {
                (Clone::Finishing, vec![FinishClone])
            }
            (Clone::Copying, Event::CloneEnded { waits: true }) => {
                (Clone::Meeting, vec![EnableApply])
            }
            (Clone::Meeting, Event::Met | Event::FollowEnded) => {
                (Clone::Finishing, vec![FinishClone])
            }
            (Clone::Finishing, Event::CloneEnded { .. }) => (Clone::Whole, vec![ForgetMeeting]),
            (stage @ (Clone::Copying | Clone::Finishing | Clone::Whole), _) => (stage, Vec::new()),
            (Clone::Meeting, Event::CloneEnded { .. }) => (Clone::Meeting, Vec::new()),
        };
        self.clone = next;
        if self.clone == Clone::Whole && self.has_followed {
            actions.push(End);
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{EnableApply, End, FinishClone, ForgetMeeting};
    use super::{Event, Stages};

    const ENDED: Event = Event::CloneEnded { waits: false };
    const WAITS: Event = Event::CloneEnded { waits: true };

    fn run(events: &[Event]) -> Vec<Vec<super::Action>> {
        let mut stages = Stages::new();
        events.iter().map(|event| stages.step(*event)).collect()
    }

    #[test]
    fn one_snapshot() {
        let actions = run(&[ENDED, Event::FollowEnded]);
        assert_eq!(actions, [vec![ForgetMeeting, EnableApply], vec![End]]);
        // The follow of a resumed run may find its end position reached before the clone has seen that it is complete.
        let actions = run(&[Event::FollowEnded, ENDED]);
        assert_eq!(actions, [vec![], vec![ForgetMeeting, EnableApply, End]]);
    }

    #[test]
    fn several_snapshots() {
        let actions = run(&[WAITS, Event::Met, ENDED, Event::FollowEnded]);
        assert_eq!(
            actions,
            [
                vec![EnableApply],
                vec![FinishClone],
                vec![ForgetMeeting],
                vec![End]
            ]
        );
    }

    #[test]
    fn an_end_position_ends_the_follow_before_the_clone() {
        for events in [
            &[WAITS, Event::FollowEnded, ENDED][..],
            &[WAITS, Event::Met, Event::FollowEnded, ENDED],
            &[Event::FollowEnded, WAITS, ENDED],
        ] {
            let actions = run(events).concat();
            assert!(
                actions.ends_with(&[ForgetMeeting, End]),
                "{events:?}: {actions:?}"
            );
            let finished = actions.iter().filter(|action| **action == FinishClone);
            assert_eq!(finished.count(), 1, "{events:?}");
        }
    }

    #[test]
    fn the_point_is_waited_for_once() {
        let mut stages = Stages::new();
        assert!(!stages.awaits_meeting());
        stages.step(WAITS);
        assert!(stages.awaits_meeting());
        stages.step(Event::Met);
        assert!(!stages.awaits_meeting());
        assert!(stages.step(Event::Met).is_empty());
    }
}
