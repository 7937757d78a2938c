//! A WASI 0.2 command that tells what it sees: environment, the files named as arguments, and what it may not touch.
//!
//! It leaves a message in the file `LAST_WORDS_TO`, and exits with `EXIT_CODE`, where these are set.

use std::{env, fs, io::Read};

fn main() {
    for (name, value) in env::vars() {
        println!("{name}={value}");
    }
    for path in env::args().skip(1) {
        match fs::read_to_string(&path) {
            Ok(text) => println!("{path}: {text}"),
            Err(error) => println!("cannot read {path}: {error}"),
        }
    }
    if let Err(error) = fs::write("/data/new", "new") {
        println!("cannot write /data/new: {error}");
    }
    let mut input = Vec::new();
    let read = std::io::stdin().read_to_end(&mut input).unwrap_or_default();
    println!("stdin: {read} bytes");
    eprint!("do");
    eprintln!("ne");
    if let Ok(path) = env::var("LAST_WORDS_TO") {
        fs::write(path, "that was all").unwrap();
    }
    if let Ok(code) = env::var("EXIT_CODE") {
        std::process::exit(code.parse().unwrap());
    }
}
