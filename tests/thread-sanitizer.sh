#!/bin/sh
# The hosts with threads, with a library in which ThreadSanitizer sees every access to memory: what is not ordered is an error.
#
#   tests/thread-sanitizer.sh                  all hosts, several thresholds
#   tests/thread-sanitizer.sh shared 2 20      one host, these thresholds
#
# Needs a nightly toolchain with its sources (rustup component add rust-src --toolchain nightly) and gcc's libtsan. The
# library with all its dependencies, the standard library included, is compiled into the folder tsan of cargo's target
# folder. Hosts and machine code made at run time are not instrumented: it is the library's tables that are looked at.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/tsan
triple=x86_64-unknown-linux-gnu
RUSTFLAGS=-Zsanitizer=thread CARGO_TARGET_DIR=$target cargo +nightly build -Zbuild-std --target $triple -p redmagic --lib
# The recorder's accesses to the guest's memory are the guest's own, whose races are none of the library's.
cat > "$target/suppressions" <<'END'
race:guest_load
race:guest_store
END
# Names that the compiler's runtime has and gcc's has not; these calls are intercepted.
cat > "$target/names.c" <<'END'
#include <string.h>
void *__tsan_memcpy(void *to, const void *from, size_t n) { return memcpy(to, from, n); }
void *__tsan_memmove(void *to, const void *from, size_t n) { return memmove(to, from, n); }
void *__tsan_memset(void *to, int byte, size_t n) { return memset(to, byte, n); }
END
cc -O1 -fno-builtin -c "$target/names.c" -o "$target/names.o"

# Compiles a host and runs it at each threshold.
run() {
    name=$1
    shift
    more= arguments=
    case $name in
    threads) more=tests/hosts/switch.c ;;
    model) arguments="$$ 15 4" ;;
    misuse) arguments=$$ ;;
    esac
    # The option for the linker alone: the host itself is not instrumented.
    for source in tests/hosts/$name.c $more; do
        cc -O2 -g1 -fwrapv -fexceptions -Iinclude -Itests/hosts -c "$source" -o "$target/$(basename "$source" .c).o"
    done
    # shellcheck disable=SC2086
    cc -fsanitize=thread "$target/$name.o" ${more:+"$target/switch.o"} "$target/names.o" \
        "$target/$triple/debug/libredmagic.a" -lpthread -ldl -lm -o "$target/$name"
    for threshold; do
        # shellcheck disable=SC2086
        if TSAN_OPTIONS="suppressions=$target/suppressions history_size=7" REDMAGIC_HOT_LOOP=$threshold \
            REDMAGIC_HOT_EXIT=2 REDMAGIC_COMPILE_SHARE=0 \
            timeout 900 setarch -R "$target/$name" $arguments > "$target/$name.out" 2>&1; then
            echo "$name $arguments: nothing found at threshold $threshold"
        else
            echo "$name $arguments: ended with $? at threshold $threshold (124: out of time), see $target/$name.out"
            found=1
        fi
    done
}

found=0
if [ $# -gt 0 ]; then
    run "$@"
else
    for name in shared threads reclaim misuse model; do run $name 1 2 20; done
fi
exit $found
