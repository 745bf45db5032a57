# make; make test; sudo make install. `make help` lists targets and variables.

PREFIX ?= /usr/local
prefix ?= $(PREFIX)
exec_prefix ?= $(prefix)
bindir ?= $(exec_prefix)/bin
datarootdir ?= $(prefix)/share
mandir ?= $(datarootdir)/man
man1dir ?= $(mandir)/man1
docdir ?= $(datarootdir)/doc/simple-proxy
bashcompletiondir ?= $(datarootdir)/bash-completion/completions
zshcompletiondir ?= $(datarootdir)/zsh/site-functions
fishcompletiondir ?= $(datarootdir)/fish/vendor_completions.d
# systemd units are installed only if this names their directory.
unitdir ?=

INSTALL ?= install
INSTALL_PROGRAM ?= $(INSTALL) -m 755
INSTALL_DATA ?= $(INSTALL) -m 644
PKG_CONFIG ?= pkg-config
CARGO ?= cargo
CARGOFLAGS ?= --locked

# STATIC=1 builds a static program with musl, and so with OpenSSL from source.
ifeq ($(STATIC),1)
VENDORED = 1
host = $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# On a system whose C library is musl, the host's target is used.
CARGO_BUILD_TARGET = $(or $(filter %-musl,$(host)),$(firstword $(subst -, ,$(host)))-unknown-linux-musl)
export CARGO_BUILD_TARGET
static = , \"-Ctarget-feature=+crt-static\"
endif

# VENDORED=1 builds OpenSSL from source instead of using the system's.
ifeq ($(VENDORED),1)
features = --features vendored
endif

# The directory in which cargo builds, and the files that it builds.
target = $(or $(CARGO_TARGET_DIR),target)
release = $(target)/$(if $(CARGO_BUILD_TARGET),$(CARGO_BUILD_TARGET)/)release
program = $(release)/simple-proxy
documents = README.md README.zh-CN.md CHANGELOG.md SECURITY.md LICENSE contrib/simple-proxy.env
guides = docs/settings.md docs/settings.zh-CN.md docs/scaling.md
units = $(if $(unitdir),contrib/systemd/simple-proxy.service contrib/systemd/simple-proxy.socket)
version = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
rust = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
tarball = $(target)/simple-proxy-$(version).tar.gz

# Panic messages contain the paths of source files. With the directories of this machine remapped,
# the program is the same wherever it is built, except for OpenSSL from source, which records the
# time and place. RUSTFLAGS and flags for a target override this setting. The shell expands $$, so
# that a path may contain any character.
remap = --config "build.rustflags=[\"--remap-path-prefix=$$(pwd -P)=.\", \
  \"--remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo\"$(static)]"
optimized = --release $(CARGOFLAGS) $(features) $(remap)

all: prerequisites
	@$(CARGO) build $(optimized)

demo: prerequisites
	@$(CARGO) build $(optimized) --bin simple-proxy --example demo
	@"$(release)/examples/demo" "$(program)"

test: prerequisites
	@$(CARGO) test $(CARGOFLAGS) $(features)

check: test

# Runs mixed load, injected faults and attacks for MINUTES, then checks for leaks.
MINUTES ?= 10
soak: prerequisites
	@$(CARGO) build $(optimized) --bin simple-proxy --example soak
	@"$(release)/examples/soak" "$(program)" "$(MINUTES)"

# Sends REQUESTS while threads hand connections to each other, and checks that none is lost.
REQUESTS ?= 10000000
soak-hand-over: prerequisites
	@$(CARGO) build $(optimized) --bin simple-proxy --example soak
	@"$(release)/examples/soak" "$(program)" hand-over "$(REQUESTS)"

# Compares the program with nginx, HAProxy and Caddy if they are installed: benches/README.md.
bench: prerequisites
	@$(CARGO) bench $(CARGOFLAGS) $(features) $(remap) --bench compare -- $(if $(QUICK),--quick) $(BENCH)

# Counts round trips over an emulated long-distance link, as root. LONG may contain --rtt
# MILLISECONDS, --rest SECONDS, --rate MBIT, --loss PER_MILLION, --only WORDS and --counts.
bench-long: prerequisites
	@$(CARGO) bench $(CARGOFLAGS) $(features) $(remap) --bench long -- $(LONG)

# Measures attacks on this program, BEFORE (another build of it), nginx, HAProxy and Caddy, for the
# table in SECURITY.md.
attacks: prerequisites
	@$(CARGO) build $(optimized) --bin simple-proxy
	@benches/attacks.py "$(program)" $(if $(BEFORE),--old "$(BEFORE)")

# Runs third-party test suites directly and through the program: tests/suites/run.py.
suites: prerequisites
	@$(CARGO) build $(optimized) --bin simple-proxy
	@python3 tests/suites/run.py "$(program)" "$(target)/suites" $(SUITES)

# Coverage-guided fuzzing on the stable toolchain: fuzz/README.md.
fuzz: prerequisites
	@fuzz/run

# Generates the pictures of the README: docs/pictures/make.mjs lists what that needs.
pictures: prerequisites
	@$(CARGO) build $(optimized) --bin simple-proxy --example demo
	@node docs/pictures/make.mjs "$(program)" "$(release)/examples/demo"

# Writes the completions, which tests/cli/completions.rs generates from the table of flags.
completions: prerequisites
	@SIMPLE_PROXY_WRITE_COMPLETIONS=1 $(CARGO) test $(CARGOFLAGS) $(features) -q \
	  --test end_to_end -- cli::completions::match_the_flags --exact

installdirs:
	@umask 022 && mkdir -p "$(DESTDIR)$(bindir)" "$(DESTDIR)$(man1dir)" "$(DESTDIR)$(docdir)/docs" \
	  "$(DESTDIR)$(bashcompletiondir)" "$(DESTDIR)$(zshcompletiondir)" \
	  "$(DESTDIR)$(fishcompletiondir)" $(if $(units),"$(DESTDIR)$(unitdir)")

# Builds only if the program is missing: after `make`, `sudo make install` runs no compiler.
install: installdirs
	@test -x "$(program)" || $(MAKE) --no-print-directory all
	$(INSTALL_PROGRAM) "$(program)" "$(DESTDIR)$(bindir)/simple-proxy"
	$(INSTALL_DATA) man/simple-proxy.1 "$(DESTDIR)$(man1dir)/simple-proxy.1"
	$(INSTALL_DATA) contrib/completions/simple-proxy.bash "$(DESTDIR)$(bashcompletiondir)/simple-proxy"
	$(INSTALL_DATA) contrib/completions/_simple-proxy "$(DESTDIR)$(zshcompletiondir)/_simple-proxy"
	$(INSTALL_DATA) contrib/completions/simple-proxy.fish "$(DESTDIR)$(fishcompletiondir)/simple-proxy.fish"
	$(INSTALL_DATA) $(documents) "$(DESTDIR)$(docdir)/"
	$(INSTALL_DATA) $(guides) "$(DESTDIR)$(docdir)/docs/"
	@umask 022 && for unit in $(units); do \
	  sed 's|/usr/bin/|$(bindir)/|' "$$unit" >"$(DESTDIR)$(unitdir)/$${unit##*/}"; done

install-strip:
	@$(MAKE) --no-print-directory install INSTALL_PROGRAM='$(INSTALL_PROGRAM) -s'

# Accepts the same variables as install. Keeps directories that other packages use.
uninstall:
	rm -f "$(DESTDIR)$(bindir)/simple-proxy" "$(DESTDIR)$(man1dir)/simple-proxy.1" \
	  "$(DESTDIR)$(bashcompletiondir)/simple-proxy" \
	  "$(DESTDIR)$(zshcompletiondir)/_simple-proxy" \
	  "$(DESTDIR)$(fishcompletiondir)/simple-proxy.fish" \
	  $(foreach file,$(notdir $(documents)),"$(DESTDIR)$(docdir)/$(file)") \
	  $(foreach file,$(guides),"$(DESTDIR)$(docdir)/$(file)") \
	  $(foreach file,$(notdir $(units)),"$(DESTDIR)$(unitdir)/$(file)")
	@rmdir "$(DESTDIR)$(docdir)/docs" "$(DESTDIR)$(docdir)" 2>/dev/null || true

# Makes the source tarball, which is the same file for the same commit.
dist:
	@test -e .git || { echo 'make dist needs the git repository' >&2; exit 1; }
	@mkdir -p "$(target)"
	@git -c tar.umask=0022 archive --format=tar --prefix=simple-proxy-$(version)/ HEAD >"$(tarball).part"
	@gzip -n -9 <"$(tarball).part" >"$(tarball)" && rm "$(tarball).part"
	@echo "$(tarball)"

clean:
	@$(CARGO) clean

# The compiler that the crate cc runs for a target with musl.
musl_cc = $(or $(CC_$(subst -,_,$(CARGO_BUILD_TARGET))),$(if $(filter %-musl,$(host)),cc,musl-gcc))

# Reports what is missing, and the packages that provide it.
prerequisites:
	@ok=true; \
	missing() { ok=false; printf '%s\n' "$$@" >&2; }; \
	found() { command -v "$$1" >/dev/null 2>&1; }; \
	found "$(firstword $(CARGO))" || missing "cargo is missing: install Rust $(rust) or later."; \
	found cc || missing "A C compiler (cc) is missing: install" \
	  "  Debian, Ubuntu: gcc libc6-dev    Fedora: gcc    Alpine: gcc musl-dev"; \
	if [ "$(STATIC)" = 1 ]; then \
	  found "$(musl_cc)" || missing "A C compiler for musl ($(musl_cc)) is missing, which STATIC=1 needs: install" \
	    "  Debian, Ubuntu: musl-tools    Fedora: musl-gcc"; \
	  case ' $(CARGOFLAGS)' in *' -Zbuild-std'*) ;; *) \
	    libraries=$$(rustc --print target-libdir --target "$(CARGO_BUILD_TARGET)"); \
	    ls "$$libraries"/libstd-*.rlib >/dev/null 2>&1 || missing \
	      "Rust's library for $(CARGO_BUILD_TARGET) is missing, which STATIC=1 needs:" \
	      "  rustup target add $(CARGO_BUILD_TARGET)" \
	      "Fedora: rust-std-static-$(CARGO_BUILD_TARGET). Debian's Rust has none.";; \
	  esac; \
	fi; \
	if [ "$(VENDORED)" = 1 ]; then \
	  perl -MFile::Compare -MFile::Copy -MFindBin -MIPC::Cmd -MPod::Usage -MTime::Piece -e 1 2>/dev/null || \
	    missing "perl, or one of its modules, is missing, which OpenSSL from source needs: install" \
	    "  Debian, Ubuntu: perl    Fedora: perl    Alpine: perl linux-headers"; \
	elif [ -z "$$OPENSSL_DIR$$OPENSSL_LIB_DIR" ]; then \
	  "$(PKG_CONFIG)" --exists openssl 2>/dev/null || missing \
	    "OpenSSL's headers or pkg-config are missing: install" \
	    "  Debian, Ubuntu: libssl-dev pkg-config    Fedora: openssl-devel pkgconf    Alpine: openssl-dev pkgconf" \
	    "or run make VENDORED=1, which builds OpenSSL from source and needs perl."; \
	fi; \
	$$ok

help:
	@echo 'all (default)   build the program'
	@echo 'demo            run it between an upstream and a SOCKS5 proxy of its own'
	@echo 'test, check     run all tests; SIMPLE_PROXY_REQUIRE_PEERS=1 fails without the real peers'
	@echo 'soak            mixed load with faults and attacks for MINUTES (10)'
	@echo 'soak-hand-over  send REQUESTS (10000000) over connections that threads share'
	@echo 'bench           compare with peers; QUICK=1, or BENCH with options and workloads'
	@echo 'bench-long      count round trips on an emulated link of 100 ms, as root; LONG has options'
	@echo 'attacks         measure attacks on the program and its peers; BEFORE is another build'
	@echo 'fuzz            fuzz for 30 s a target, or SECONDS_EACH'
	@echo "suites          run other people's test suites through the program, or SUITES of them"
	@echo 'completions     regenerate contrib/completions after a change of flags'
	@echo 'pictures        regenerate the pictures of the README'
	@echo 'install         install program, man page, completions and documents, and systemd'
	@echo '                units if unitdir is set; install-strip: a smaller program'
	@echo 'uninstall       remove what install has installed; takes the same variables'
	@echo 'dist            make a source tarball of the last commit'
	@echo 'clean           remove what was built'
	@echo 'Variables: prefix or PREFIX (/usr/local), exec_prefix, bindir, datarootdir, mandir,'
	@echo 'man1dir, docdir, bashcompletiondir, zshcompletiondir, fishcompletiondir, unitdir (none),'
	@echo 'DESTDIR, INSTALL, INSTALL_PROGRAM, INSTALL_DATA, CARGO, CARGOFLAGS (--locked),'
	@echo 'CARGO_TARGET_DIR, PKG_CONFIG, VENDORED=1 (OpenSSL from source), STATIC=1 (a static'
	@echo 'program, with musl and OpenSSL from source).'

.PHONY: all demo test check soak soak-hand-over bench bench-long attacks suites fuzz completions \
  pictures installdirs install install-strip uninstall dist clean prerequisites help
