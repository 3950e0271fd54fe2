;; Does what the first letter of the user says; anything else delivers.
(module
  (import "presence:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
  (import "presence:plugin/keyvalue@0.1.0" "increment" (func $increment (param i32 i32 i32 i32 i64 i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "busy")
  (data (i32.const 1040) "never")
  (data (i32.const 1056) "counts")
  (data (i32.const 1072) "no config wanted")
  (global $next (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (if (i32.gt_u (i32.add (local.get $at) (local.get 3)) (i32.const 131072))
      (then (local.set $at (i32.const 4096))))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (local.get $at))

  (func $deliver (result i32)
    (i32.store8 (i32.const 64) (i32.const 0))
    (i32.const 64))
  (func $retry (result i32)
    (i32.store8 (i32.const 64) (i32.const 1))
    (i32.store8 (i32.const 68) (i32.const 0))
    (i32.store (i32.const 72) (i32.const 1024))
    (i32.store (i32.const 76) (i32.const 4))
    (i32.store8 (i32.const 80) (i32.const 0))
    (i32.const 64))
  (func $reject (param $text i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 64) (i32.const 1))
    (i32.store8 (i32.const 68) (i32.const 1))
    (i32.store (i32.const 72) (local.get $text))
    (i32.store (i32.const 76) (local.get $length))
    (i32.const 64))

  (func $endless_loop (loop $again (br $again)))
  (func $trap unreachable)
  ;; A name of C++ that stands for 2^34 pairs.
  (func $_Z1fSt4pairIiiES_IS0_S0_ES_IS1_S1_ES_IS2_S2_ES_IS3_S3_ES_IS4_S4_ES_IS5_S5_ES_IS6_S6_ES_IS7_S7_ES_IS8_S8_ES_IS9_S9_ES_ISA_SA_ES_ISB_SB_ES_ISC_SC_ES_ISD_SD_ES_ISE_SE_ES_ISF_SF_ES_ISG_SG_ES_ISH_SH_ES_ISI_SI_ES_ISJ_SJ_ES_ISK_SK_ES_ISL_SL_ES_ISM_SM_ES_ISN_SN_ES_ISO_SO_ES_ISP_SP_ES_ISQ_SQ_ES_ISR_SR_ES_ISS_SS_ES_IST_ST_ES_ISU_SU_ES_ISV_SV_ES_ISW_SW_ES_ISX_SX_E unreachable)
  ;; Its last three memories and its tables are for growing alone.
  (memory $second 0) (memory $third 0) (memory $fourth 0)
  (table $first_table 0 funcref) (table $second_table 0 funcref)
  (func $grow_all
    (loop $more
      (br_if $more (i32.ne (memory.grow $second (i32.const 1)) (i32.const -1)))
      (br_if $more (i32.ne (memory.grow $third (i32.const 1)) (i32.const -1)))
      (br_if $more (i32.ne (memory.grow $fourth (i32.const 1)) (i32.const -1))))
    unreachable)
  (func $grow_tables
    (loop $more
      (br_if $more
        (i32.ne (table.grow $first_table (ref.null func) (i32.const 10000)) (i32.const -1)))
      (br_if $more
        (i32.ne (table.grow $second_table (ref.null func) (i32.const 10000)) (i32.const -1))))
    unreachable)
  (func $many_fields
    (drop (memory.grow (i32.const 64)))
    (call $log (i32.const 2) (i32.const 1024) (i32.const 4) (i32.const 131072) (i32.const 200000)))
  (func $grow
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable)
  (func $flood (local $left i32)
    (local.set $left (i32.const 10000))
    (loop $more
      (call $log (i32.const 2) (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left))))
  (func $huge (result i32)
    (drop (memory.grow (i32.const 64)))
    (call $reject (i32.const 131072) (i32.const 4194304)))
  (func $count (param $user i32) (param $length i32) (result i32)
    (call $increment (i32.const 1056) (i32.const 6) (local.get $user) (local.get $length) (i64.const 1) (i32.const 128))
    (if (i32.load8_u (i32.const 128))
      (then (return (call $reject (i32.load (i32.const 140)) (i32.load (i32.const 144))))))
    (call $deliver))

  (func $act (param $attempt i32) (param $user i32) (param $length i32) (result i32)
    (local $letter i32)
    (local.set $letter (i32.load8_u (local.get $user)))
    (if (i32.eq (local.get $letter) (i32.const 0x73)) (then (call $endless_loop))) ;; s
    (if (i32.eq (local.get $letter) (i32.const 0x74)) (then (call $trap))) ;; t
    (if (i32.eq (local.get $letter) (i32.const 0x67)) (then (call $grow))) ;; g
    (if (i32.eq (local.get $letter) (i32.const 0x66)) (then (call $flood))) ;; f
    (if (i32.eq (local.get $letter) (i32.const 0x6e)) (then (call $grow_all))) ;; n
    (if (i32.eq (local.get $letter) (i32.const 0x6b)) (then (call $grow_tables))) ;; k
    (if (i32.eq (local.get $letter) (i32.const 0x6d)) (then (call $many_fields))) ;; m
    (if (i32.eq (local.get $letter) (i32.const 0x78)) (then (call $_Z1fSt4pairIiiES_IS0_S0_ES_IS1_S1_ES_IS2_S2_ES_IS3_S3_ES_IS4_S4_ES_IS5_S5_ES_IS6_S6_ES_IS7_S7_ES_IS8_S8_ES_IS9_S9_ES_ISA_SA_ES_ISB_SB_ES_ISC_SC_ES_ISD_SD_ES_ISE_SE_ES_ISF_SF_ES_ISG_SG_ES_ISH_SH_ES_ISI_SI_ES_ISJ_SJ_ES_ISK_SK_ES_ISL_SL_ES_ISM_SM_ES_ISN_SN_ES_ISO_SO_ES_ISP_SP_ES_ISQ_SQ_ES_ISR_SR_ES_ISS_SS_ES_IST_ST_ES_ISU_SU_ES_ISV_SV_ES_ISW_SW_ES_ISX_SX_E))) ;; x
    (if (i32.eq (local.get $letter) (i32.const 0x77)) ;; w
      (then (call $block (call $subscribe (i64.const 3600000000000)))))
    (if (i32.eq (local.get $letter) (i32.const 0x68)) (then (return (call $huge)))) ;; h
    (if (i32.eq (local.get $letter) (i32.const 0x6a)) ;; j
      (then (return (call $reject (i32.const 1040) (i32.const 5)))))
    (if (i32.eq (local.get $letter) (i32.const 0x63)) ;; c
      (then (return (call $count (local.get $user) (local.get $length)))))
    (if (i32.eq (local.get $letter) (i32.const 0x72)) ;; r, on the first attempt
      (then (if (i32.eq (local.get $attempt) (i32.const 1)) (then (return (call $retry))))))
    (call $deliver))

  (func (export "presence:plugin/user-online@0.1.0#handle")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i64 i32 i32 i64) (result i32)
    (call $act (local.get 2) (local.get 6) (local.get 7)))
  (func (export "presence:plugin/session-connected@0.1.0#handle")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
    (call $act (local.get 2) (local.get 8) (local.get 9)))
  (func (export "presence:plugin/configure@0.1.0#configure") (param $json i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 64) (i32.gt_u (local.get $length) (i32.const 2)))
    (i32.store (i32.const 68) (i32.const 1072))
    (i32.store (i32.const 72) (i32.const 16))
    (i32.const 64)))
