;; A preview-1 command that sleeps for an hour; with arguments, it copies its input to its output and exits with how many
;; arguments it has, its name among them.
(module
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (if (i32.eq (i32.load (i32.const 0)) (i32.const 1)) (then
            (i32.store (i32.const 80) (i32.const 1))
            (i64.store (i32.const 88) (i64.const 3600000000000))
            (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 200)))))
        (loop $next
            (i32.store (i32.const 8) (i32.const 1024))
            (i32.store (i32.const 12) (i32.const 4096))
            (drop (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 16)))
            (if (i32.load (i32.const 16)) (then
                (i32.store (i32.const 12) (i32.load (i32.const 16)))
                (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 20)))
                (br $next))))
        (call $exit (i32.load (i32.const 0)))))
