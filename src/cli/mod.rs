//! The command line (placeholder until the first command lands).

pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(1)
}
