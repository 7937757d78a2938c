//! A wasi:cli/command of WASI 0.3 that prints its arguments and fails if there are none.

use wasip3::{cli, wit_stream};

struct Command;

wasip3::cli::command::export!(Command);

impl wasip3::exports::cli::run::Guest for Command {
    async fn run() -> Result<(), ()> {
        let arguments = cli::environment::get_arguments();
        let (mut out, reader) = wit_stream::new();
        let written = cli::stdout::write_via_stream(reader);
        let _left_over = out.write_all(format!("{}\n", arguments.join(" ")).into_bytes()).await;
        drop(out);
        written.await.map_err(|_| ())?;
        if arguments.len() > 1 { Ok(()) } else { Err(()) }
    }
}
