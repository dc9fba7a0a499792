//! The executable: hands over to `pgcopydb::cli` and nothing else.

fn main() -> std::process::ExitCode {
    pgcopydb::cli::main()
}
