;; Writes the path and query of each request into the log, works for 0.4 s, and answers with them.
(module
  (import "wasi:http/types@0.2.0" "[method]incoming-request.path-with-query" (func $path (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]response-outparam.set"
    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[resource-drop]incoming-request" (func $drop_request (param i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $print (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop_stream (param i32)))

  (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $sleep (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop_pollable (param i32)))

  ;; 0..64: results of host functions. 1024 and on: what the host hands over; an instance answers
  ;; one request, so nothing is given back.
  (memory (export "memory") 1)
  (data (i32.const 64) "\n")
  (global $heap (mut i32) (i32.const 1024))

  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.const 65536)) (then unreachable))
    (local.get $at))

  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $request i32) (param $out i32)
    (local $text i32) (local $length i32) (local $resp i32) (local $resp_body i32) (local $stream i32) (local $wait i32)
    ;; An option at 0: present, pointer, length.
    (call $path (local.get $request) (i32.const 0))
    (if (i32.load8_u (i32.const 0))
      (then
        (local.set $text (i32.load (i32.const 4)))
        (local.set $length (i32.load (i32.const 8)))))
    (call $drop_request (local.get $request))
    (local.set $stream (call $stdout))
    (call $print (local.get $stream) (local.get $text) (local.get $length) (i32.const 32))
    (call $print (local.get $stream) (i32.const 64) (i32.const 1) (i32.const 32))
    (call $drop_stream (local.get $stream))
    (local.set $wait (call $sleep (i64.const 400000000)))
    (call $block (local.get $wait))
    (call $drop_pollable (local.get $wait))
    (local.set $resp (call $response (call $fields)))
    (call $body (local.get $resp) (i32.const 0))
    (local.set $resp_body (i32.load (i32.const 4)))
    (call $set (local.get $out) (i32.const 0) (local.get $resp)
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $write (local.get $resp_body) (i32.const 0))
    (local.set $stream (i32.load (i32.const 4)))
    (call $print (local.get $stream) (local.get $text) (local.get $length) (i32.const 32))
    (call $drop_stream (local.get $stream))
    (call $finish (local.get $resp_body) (i32.const 0) (i32.const 0) (i32.const 0))))
