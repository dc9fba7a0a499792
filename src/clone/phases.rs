//! The phases of a clone, and which of them a command is: `clone` is all of them, the sub-commands of `dump`, `restore`
//! and `copy` are some. What must have been done before a phase is decided here, from the steps that the work directory
//! shows. Pure; used by the parent.

use super::step;
use crate::error::{Error, Result};

/// One phase, in the order in which a whole clone begins them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// pg_dump of pre-data and post-data.
    Dump,
    PreData,
    TableData,
    LargeObjects,
    Indexes,
    /// What makes an index a constraint, and what else ALTER TABLE says about one.
    Constraints,
    /// Of each table as soon as its indexes stand: only beside the phases before it.
    Vacuum,
    Sequences,
    /// And the settings of the database.
    PostData,
}

const IN_ORDER: [Phase; 9] = [
    Phase::Dump,
    Phase::PreData,
    Phase::TableData,
    Phase::LargeObjects,
    Phase::Indexes,
    Phase::Constraints,
    Phase::Vacuum,
    Phase::Sequences,
    Phase::PostData,
];

impl Phase {
    /// Its name in the work directory.
    pub(super) fn step(self) -> Option<&'static str> {
        match self {
            Phase::Dump => Some(step::DUMP),
            Phase::PreData => Some(step::RESTORE_PRE),
            Phase::TableData => Some(step::TABLES),
            Phase::LargeObjects => Some(step::BLOBS),
            Phase::Indexes => Some(step::INDEXES),
            Phase::Constraints => Some(step::CONSTRAINTS),
            // Its done-files are of single tables: what is not vacuumed is nobody's loss.
            Phase::Vacuum => None,
            Phase::Sequences => Some(step::SEQUENCES),
            Phase::PostData => Some(step::RESTORE_POST),
        }
    }

    /// The command that does this and nothing else.
    fn command(self) -> &'static str {
        match self {
            Phase::Dump => "dump schema",
            Phase::PreData => "restore pre-data",
            Phase::TableData => "copy table-data",
            Phase::LargeObjects => "copy blobs",
            Phase::Indexes => "copy indexes",
            Phase::Constraints => "copy constraints",
            Phase::Vacuum => "copy data",
            Phase::Sequences => "copy sequences",
            Phase::PostData => "restore post-data",
        }
    }

    /// What the user reads: "cannot ..", ".. is done".
    fn words(self) -> &'static str {
        match self {
            Phase::Dump => "dump the schema",
            Phase::PreData => "restore pre-data",
            Phase::TableData => "copy table data",
            Phase::LargeObjects => "copy large objects",
            Phase::Indexes => "build indexes",
            Phase::Constraints => "add constraints",
            Phase::Vacuum => "vacuum tables",
            Phase::Sequences => "set sequences",
            Phase::PostData => "restore post-data",
        }
    }

    /// What must be there before it. `Complete`: the phase cannot do without it. `NotHalf`: the user may have done it with
    /// other tools, or may want to do without, but an interrupted one must be ended first.
    fn needs(self) -> &'static [(Phase, Need)] {
        use Need::{Complete, NotHalf};
        match self {
            Phase::Dump | Phase::Vacuum => &[],
            Phase::PreData => &[(Phase::Dump, Complete)],
            Phase::TableData | Phase::LargeObjects | Phase::Sequences => {
                &[(Phase::PreData, NotHalf)]
            }
            Phase::Indexes => &[(Phase::PreData, NotHalf), (Phase::TableData, Complete)],
            Phase::Constraints => &[(Phase::TableData, Complete), (Phase::Indexes, Complete)],
            Phase::PostData => &[
                (Phase::Dump, Complete),
                (Phase::PreData, Complete),
                (Phase::TableData, NotHalf),
                (Phase::LargeObjects, NotHalf),
                (Phase::Indexes, NotHalf),
                (Phase::Constraints, NotHalf),
            ],
        }
    }
}

const RESUME: &str = " --resume";

/// What "copy data" is, as far as it leaves a step of its own.
pub const COPY_DATA: Phases = Phases::of(&[
    Phase::TableData,
    Phase::LargeObjects,
    Phase::Indexes,
    Phase::Constraints,
]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Complete,
    NotHalf,
}

/// How far a phase has come, in the work directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    NotBegun,
    Begun,
    Done,
}

/// Some of the phases: what one command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phases(u16);

impl Phases {
    /// A whole clone.
    pub const ALL: Phases = Phases::of(&IN_ORDER);

    pub const fn of(phases: &[Phase]) -> Phases {
        let (mut bits, mut at) = (0, 0);
        while at < phases.len() {
            bits |= 1 << phases[at] as u16;
            at += 1;
        }
        Phases(bits)
    }

    pub fn has(self, phase: Phase) -> bool {
        self.0 & Phases::of(&[phase]).0 != 0
    }

    pub fn has_any(self, others: Phases) -> bool {
        self.0 & others.0 != 0
    }

    pub fn without(self, phase: Phase) -> Phases {
        Phases(self.0 & !Phases::of(&[phase]).0)
    }

    pub fn iter(self) -> impl Iterator<Item = Phase> {
        IN_ORDER.into_iter().filter(move |phase| self.has(*phase))
    }

    /// Whether any of them talks to the source. The others find what they need of it in the work directory.
    pub fn need_source(self) -> bool {
        self.has_any(Phases::of(&[
            Phase::Dump,
            Phase::TableData,
            Phase::LargeObjects,
            Phase::Sequences,
        ]))
    }

    /// Whether any of them writes to the target.
    pub fn need_target(self) -> bool {
        self != Phases::of(&[Phase::Dump])
    }

    /// For the log: "dump the schema, restore pre-data".
    pub fn describe(self) -> String {
        let words: Vec<&str> = self.iter().map(Phase::words).collect();
        words.join(", ")
    }

    /// Whether everything is there that these phases build on. `Err` names the command that was not run or not ended.
    pub fn check_predecessors(
        self,
        dir: &str,
        progress: impl Fn(Phase) -> Result<Progress>,
    ) -> Result<()> {
        let missing = |phase: Phase, needed: Phase, reason: &str, more: &str| {
            let command = needed.command();
            // It may have been a part of the larger command that was interrupted.
            let larger = match COPY_DATA.has(needed) && more == RESUME {
                true => format!(", or \"pgcopydb copy data{RESUME}\"",),
                false => String::new(),
            };
            let despite = match phase == Phase::PostData && !larger.is_empty() {
                true => "; --despite-failures does without what cannot be copied",
                false => "",
            };
            Error::state(format!(
                "cannot {}: \"{command}\" {reason} in work directory \"{dir}\"",
                phase.words(),
            ))
            .with_hint(format!(
                "Run \"pgcopydb {command}{more}\"{larger} first{despite}."
            ))
        };
        for phase in self.iter() {
            let before = phase.needs().iter().filter(|(other, _)| !self.has(*other));
            for (needed, need) in before {
                match (progress(*needed)?, need) {
                    (Progress::Done, _) | (Progress::NotBegun, Need::NotHalf) => {}
                    (Progress::NotBegun, Need::Complete) => {
                        return Err(missing(phase, *needed, "was not run", ""));
                    }
                    (Progress::Begun, _) => {
                        return Err(missing(phase, *needed, "was not finished", RESUME));
                    }
                }
            }
        }
        // An index without its constraint would be built a second time, under the same name.
        let is_done = |phase| Ok::<bool, Error>(progress(phase)? == Progress::Done);
        if self.has(Phase::PostData)
            && !self.has(Phase::Constraints)
            && is_done(Phase::Indexes)?
            && !is_done(Phase::Constraints)?
        {
            return Err(missing(
                Phase::PostData,
                Phase::Constraints,
                "was not run",
                RESUME,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Phase, Phases, Progress};

    fn check(phases: &[Phase], done: &[Phase], half: &[Phase]) -> Result<(), String> {
        let progress = |phase: Phase| {
            Ok(match () {
                () if done.contains(&phase) => Progress::Done,
                () if half.contains(&phase) => Progress::Begun,
                () => Progress::NotBegun,
            })
        };
        Phases::of(phases)
            .check_predecessors("/w", progress)
            .map_err(|error| format!("{error} | {}", error.hint().unwrap_or_default()))
    }

    #[test]
    fn a_whole_clone_needs_nothing() {
        assert!(
            Phases::ALL
                .check_predecessors("/w", |_| Ok(Progress::NotBegun))
                .is_ok()
        );
        assert!(
            Phases::ALL
                .check_predecessors("/w", |_| Ok(Progress::Begun))
                .is_ok()
        );
        assert_eq!(Phases::ALL.iter().count(), 9);
    }

    #[test]
    fn the_missing_command_is_named() {
        use Phase::{Constraints, Dump, Indexes, PostData, PreData, Sequences, TableData};
        for (phases, done, half, text) in [
            (
                &[PreData][..],
                &[][..],
                &[][..],
                "cannot restore pre-data: \"dump schema\" was not run in work directory \"/w\" \
                 | Run \"pgcopydb dump schema\" first.",
            ),
            (
                &[TableData],
                &[Dump],
                &[PreData],
                "cannot copy table data: \"restore pre-data\" was not finished in work directory \"/w\" \
                 | Run \"pgcopydb restore pre-data --resume\" first.",
            ),
            (
                &[Indexes],
                &[Dump, PreData],
                &[],
                "\"copy table-data\" was not run",
            ),
            (
                &[Constraints],
                &[TableData],
                &[],
                "\"copy indexes\" was not run",
            ),
            (
                &[PostData],
                &[Dump],
                &[],
                "\"restore pre-data\" was not run",
            ),
            (
                &[PostData],
                &[Dump, PreData],
                &[TableData],
                "\"copy table-data\" was not finished",
            ),
            (
                &[PostData],
                &[Dump, PreData, TableData, Indexes],
                &[],
                "\"copy constraints\" was not run",
            ),
        ] {
            let error = check(phases, done, half).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        // The target may have been prepared with other tools, and a schema may be all that is wanted.
        assert!(check(&[TableData, Sequences], &[], &[]).is_ok());
        assert!(check(&[PreData, PostData], &[Dump], &[]).is_ok());
        assert!(check(&[PostData], &[Dump, PreData, TableData], &[]).is_ok());
    }

    #[test]
    fn sets_of_phases() {
        let phases = Phases::of(&[Phase::Dump, Phase::LargeObjects]);
        assert!(phases.has(Phase::Dump) && !phases.has(Phase::PreData));
        assert!(!phases.without(Phase::Dump).has(Phase::Dump));
        assert_eq!(phases.describe(), "dump the schema, copy large objects");
    }
}
