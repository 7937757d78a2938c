//! A command module: counts primes, says so, and exits; or keeps ticking.
//!
//! Arguments: `primes N` (default 100000), `tick SECONDS` (says a line each second, for so long), `exit CODE`.

use std::{thread::sleep, time::Duration};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| args.get(index).and_then(|arg| arg.parse().ok()).unwrap_or(default);
    match args.first().map_or("primes", String::as_str) {
        "primes" => {
            let limit = number(1, 100_000);
            println!("counting primes below {limit}");
            println!("there are {}", primes_below(limit));
        }
        "tick" => {
            for tick in 1..=number(1, 60) {
                println!("tick {tick}");
                sleep(Duration::from_secs(1));
            }
        }
        "exit" => {
            let code = number(1, 1);
            eprintln!("leaving with exit code {code}");
            std::process::exit(i32::try_from(code).unwrap_or(1));
        }
        other => {
            eprintln!("worker: no such task: {other}");
            std::process::exit(2);
        }
    }
}

fn primes_below(limit: u64) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut composite = vec![false; limit];
    let mut count = 0;
    for candidate in 2..limit {
        if composite[candidate] {
            continue;
        }
        count += 1;
        // Smaller multiples have smaller factors. The square may not fit into a 32-bit usize.
        if candidate < limit / candidate + 1 {
            for multiple in (candidate * candidate..limit).step_by(candidate) {
                composite[multiple] = true;
            }
        }
    }
    count
}
