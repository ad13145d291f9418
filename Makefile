# GNU make, one file, no recursion of folders.  `make help` lists the targets.
#
#   make -j2                       build/release, whatever this machine can do
#   make -j2 BUILD=asan check      another variant, another directory, no clean
#   make CUDA=0 | CUDA=1           never | insist; default: if nvcc is found
#
# Sources are found by folder, so adding a file touches only that file.  Nothing here needs a
# library to be installed for the file to parse: `make deps` can always run.

BUILD     ?= release
CUDA      ?= auto
CUDA_HOME ?= /usr/local/cuda
CUDA_ARCH ?= 80 90a
PREFIX    ?= /usr/local
-include config.mk

.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all
BDIR ?= build
O := $(BDIR)/$(BUILD)
Q := $(if $(V),,@)
NPROC := $(shell nproc 2>/dev/null || echo 2)

# --- variant ---------------------------------------------------------------
# One binary for every machine of an architecture: a portable base, and kernels that need
# more say so by their names (x_avx2.c, x_avx512.c) and are chosen at run time.
X86  := $(filter x86_64,$(shell uname -m))
BASE := $(if $(X86),-march=x86-64-v2)
# What a mistake in C shall not become: tests/e2e/test_hardened.sh reads it back from the programs.
HARD := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection -fPIE \
        $(if $(X86),-fcf-protection=full)
ifeq ($(BUILD),release)
  OPT := -O3 -g $(HARD)
  LDSAFE := -pie -Wl,-z,relro,-z,now,-z,noexecstack,-z,separate-code
else ifeq ($(BUILD),debug)
  OPT := -O1 -g3 -fno-omit-frame-pointer -DCOSTLY_CHECKS
else ifeq ($(BUILD),asan)
  OPT := -O1 -g -fno-omit-frame-pointer -DCOSTLY_CHECKS
  SAN := -fsanitize=address,undefined -fno-sanitize-recover=all
else ifeq ($(BUILD),tsan)
  OPT := -O1 -g -fno-omit-frame-pointer
  SAN := -fsanitize=thread
else ifeq ($(BUILD),fuzz)
  CC  := clang
  OPT := -O1 -g -fno-omit-frame-pointer -DCOSTLY_CHECKS
  SAN := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
else
  $(error BUILD=$(BUILD): one of release debug asan tsan fuzz)
endif

# --- CUDA: found, forbidden or demanded; the rest of the file asks HAVE_CUDA --
NVCC ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
ifeq ($(CUDA),1)
  $(if $(NVCC),,$(error CUDA=1, but no nvcc in CUDA_HOME=$(CUDA_HOME) or PATH))
  HAVE_CUDA := 1
else ifeq ($(CUDA),auto)
  HAVE_CUDA := $(if $(SAN),,$(if $(NVCC),1))
else ifneq ($(CUDA),0)
  $(error CUDA=$(CUDA): one of auto 0 1)
endif

# --- flags -----------------------------------------------------------------
WARN := -Wall -Wextra -Wshadow -Wvla -Wundef -Wpointer-arith -Wwrite-strings \
        -Wformat=2 -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition \
        -Werror=implicit-function-declaration -Werror=incompatible-pointer-types
# Where lengths come from outside, a conversion that loses bits must be visible.
SIZES := -Wconversion -Wno-sign-conversion
# clang only fuzzes here; gcc's warnings are the ones that count.
ifeq ($(BUILD),fuzz)
  WARN  := -Wall -Wno-string-concatenation
  SIZES :=
endif
INC   := -I. -Iinclude
CBASE := -std=gnu17 -D_GNU_SOURCE -fno-common -pthread $(INC)
CFLAGS_ALL = $(CBASE) $(WARN) $(BASE) $(OPT) $(SAN) $(CFLAGS)
LINK_ALL   = $(SAN) -pthread $(LDSAFE) $(LDFLAGS)
$(O)/json/%.o $(O)/kvstore/%.o $(O)/daemon/%.o $(O)/client/%.o $(O)/engine/gguf.c.o: WARN += $(SIZES)
# Same bits from every kernel that claims the same arithmetic: nothing contracts by itself.
EXACT := -ffp-contract=off -fno-math-errno
AVX2  := $(if $(X86),-mavx2 -mfma -mf16c -mbmi2)
AVX512 := $(if $(X86),$(AVX2) -mavx512f -mavx512bw -mavx512vl -mavx512vnni)
$(O)/kernels/%.o $(O)/engine/%.o: OPT += $(EXACT)
$(O)/kernels/cpu/%_avx2.c.o: OPT += $(AVX2)
$(O)/kernels/cpu/%_avx512.c.o: OPT += $(AVX512)

NVFLAGS := -std=c++20 -O3 -lineinfo $(INC) -Xcompiler -Wall,-Wextra,-Wno-missing-field-initializers,-fno-exceptions,-fno-rtti \
           $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a))
# Which foreign libraries a folder may know: its tests link these and no more.
LIBS_json    := -lcjson
LIBS_kernels := $(if $(HAVE_CUDA),-L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lstdc++)
LIBS_engine  := -lpcre2-8 -lsodium -lxxhash -lm $(LIBS_kernels)
LIBS_kvstore := -luring -llmdb -lsodium -lxxhash
LIBS_daemon  := -lcjson $(LIBS_engine) $(LIBS_kvstore)
LIBS_front   := -lnanomsg -levent_core -lcjson -lsodium -lseccomp
LIBS_client  := -lnanomsg -lcjson -ledit -lm

# --- sources, one archive a folder -------------------------------------------
c = $(patsubst %,$(O)/%.o,$(wildcard $(1)))
OBJ_kernels := $(call c,kernels/*.c kernels/ref/*.c kernels/cpu/*.c) \
               $(if $(HAVE_CUDA),$(call c,kernels/cuda/*.cu),$(call c,kernels/cuda/none.c))
OBJ_json    := $(call c,json/*.c)
OBJ_engine  := $(call c,engine/*.c)
OBJ_kvstore := $(call c,kvstore/*.c)
OBJ_daemon  := $(filter-out %/main.c.o,$(call c,daemon/*.c))
OBJ_front   := $(filter-out %/main.c.o,$(call c,daemon/front/*.c))
OBJ_client  := $(filter-out %_main.c.o,$(call c,client/*.c))

# What a folder may link is what it may know; tests link the same and no more.
DEP_json    :=
DEP_kernels :=
DEP_kvstore :=
DEP_engine  := kernels
DEP_daemon  := engine kvstore kernels json
DEP_front   := json
DEP_client  :=
MODULES     := json kernels kvstore engine daemon front client
DIR_json    := json
DIR_kernels := kernels kernels/ref kernels/cpu kernels/cuda
DIR_kvstore := kvstore
DIR_engine  := engine
DIR_daemon  := daemon
DIR_front   := daemon/front
DIR_client  := client
lib = $(foreach m,$(1) $(DEP_$(1)),$(O)/lib$(m).a)

# hearth-eval and hearth-bench are tools of bench/: the engine and the store without the daemon.
TOOLS := $(patsubst bench/%_main.c,$(O)/hearth-%,$(wildcard bench/*_main.c))
PROGS := $(if $(wildcard daemon/main.c),$(O)/hearthd) \
         $(if $(wildcard daemon/front/main.c),$(O)/hearth-front) \
         $(if $(wildcard client/hearth_main.c),$(O)/hearth) $(TOOLS)
TESTS := $(patsubst %.c,$(O)/%,$(wildcard $(MODULES:%=tests/%/test_*.c) tests/regress/r*.c))
FUZZ  := $(patsubst %.c,$(O)/%,$(wildcard tests/fuzz/fuzz_*.c))
BOBJ  := $(filter-out %_main.c.o,$(call c,bench/*.c))
# The harness, a folder's own test helpers, and the simulators for those that may know them.
TOBJ  := $(call c,tests/*.c)
HELP_ = $(filter-out $(O)/tests/$(1)/test_%,$(call c,tests/$(1)/*.c)) \
        $(if $(filter kvstore daemon,$(1)),$(call c,tests/sim/*.c))

.PHONY: all check test bench fuzz soak mutate lint format install uninstall deps model demo help info clean
all: $(PROGS) $(if $(wildcard client/client.c),$(O)/libhearth.a) ## the programs

# --- compile ---------------------------------------------------------------
# Another compiler or other flags: everything of the variant is compiled again.  Compared
# while the file is read, so that a second make has nothing to run.
FLAGS_NOW := $(CC) $(CFLAGS_ALL) $(SIZES) $(EXACT) $(AVX2) $(AVX512) | $(NVCC) $(NVFLAGS) | $(HAVE_CUDA)
NOBUILD   := help clean deps info format uninstall test model demo soak fuzz mutate
ifneq ($(filter-out $(NOBUILD),$(or $(MAKECMDGOALS),all)),)
  ifneq ($(strip $(FLAGS_NOW)),$(strip $(file <$(O)/.flags)))
    $(shell mkdir -p $(O))
    $(file >$(O)/.flags,$(FLAGS_NOW))
  endif
endif
$(O)/.flags: ;

define record # for compile_commands.json
@printf '{"directory":"%s","file":"%s","command":"%s"},\n' '$(CURDIR)' '$<' '$(1)' > $@.json
endef

$(O)/%.c.o: %.c $(O)/.flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<
	$(call record,$(CC) $(CFLAGS_ALL) -c -o $@ $<)

$(O)/%.cu.o: %.cu $(O)/.flags
	@mkdir -p $(@D)
	@echo "  NVCC  $<"
	$(Q)$(NVCC) $(NVFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
	$(call record,$(NVCC) $(NVFLAGS) -c -o $@ $<)

define archive
@echo "  AR    $@"
$(Q)rm -f $@ && $(AR) rcs $@ $^
endef
define link
@echo "  LINK  $@"
@mkdir -p $(@D)
$(Q)$(CC) $(LINK_ALL) -o $@ $^ $(1)
endef

define module
$(O)/lib$(1).a: $$(OBJ_$(1))
	$$(archive)
$(O)/tests/$(1)/test_%: $(O)/tests/$(1)/test_%.c.o $$(call HELP_,$(1)) $$(TOBJ) $$(call lib,$(1))
	$$(call link,$$(LIBS_$(1)))
endef
$(foreach m,$(MODULES),$(eval $(call module,$(m))))

# libhearth is one object: what a program that talks to the daemon needs, and no more.
$(O)/libhearth.a: $(O)/client/client.c.o
	$(archive)
$(O)/hearthd: $(O)/daemon/main.c.o $(call lib,daemon)
	$(call link,$(LIBS_daemon))
$(O)/hearth-front: $(O)/daemon/front/main.c.o $(call lib,front)
	$(call link,$(LIBS_front))
$(O)/hearth: $(O)/client/hearth_main.c.o $(call lib,client)
	$(call link,$(LIBS_client))
$(TOOLS): $(O)/hearth-%: $(O)/bench/%_main.c.o $(BOBJ) $(call lib,engine) $(O)/libkvstore.a
	$(call link,-lcjson $(LIBS_engine) $(LIBS_kvstore))
$(O)/tests/regress/%: $(O)/tests/regress/%.c.o $(TOBJ) $(call lib,daemon)
	$(call link,$(LIBS_daemon))
$(O)/tests/fuzz/fuzz_http: $(O)/daemon/front/httpin.c.o
# The same fuzz_X.c is a fuzzer under clang, and elsewhere replays its corpus.
$(O)/tests/fuzz/%: $(O)/tests/fuzz/%.c.o $(if $(filter fuzz,$(BUILD)),,$(O)/tests/fuzz/replay.c.o) $(TOBJ) $(call lib,daemon)
	$(call link,$(if $(filter fuzz,$(BUILD)),-fsanitize=fuzzer) $(LIBS_daemon))

# --- run -------------------------------------------------------------------
# A goal that first installs packages reads this file again afterwards, with all cores.
again = +@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(NPROC))
check: all $(TESTS) $(FUZZ)                     ## fast tests: no model, no network, no root
	@JOBS=$(NPROC) TIMEOUT=$(if $(SAN),900,120) tests/run.sh $(O) $(TESTS) $(FUZZ)
deps:                                           ## install the Debian packages that are missing
	@scripts/deps.sh -v build test lint bench fuzz
test:                                           ## check with a real model, then end to end
	@scripts/deps.sh build test
	$(again) test-run
model:                                          ## fetch a small model (98 MB) to where hearthd looks
	@scripts/deps.sh build model
	@scripts/model.sh
demo:                                           ## kill -9 in the middle of an answer; MODEL=
	@scripts/deps.sh build model
	$(again) all
	@MODEL='$(MODEL)' scripts/demo.sh $(O)
soak:                                           ## N=200 kills on each I/O kind, N * 100 power cuts, 10,000 bad peers and requests
	@scripts/deps.sh build test
	$(again) all $(O)/tests/kvstore/test_cuts
	@MODEL='$(MODEL)' N='$(or $(N),200)' tests/soak.sh $(O)
mutate:                                         ## breaks a line, looks whether a test notices: ONLY= FROM= JOBS= RESUME=1
	@scripts/deps.sh build test
	@python3 tests/mutate/run.py
bench: all                                      ## this machine beside its own ceilings
	@MODEL='$(MODEL)' bench/bench.sh $(O)
fuzz:                                           ## SECS=60 a target, needs clang
	@scripts/deps.sh build fuzz
	$(again) BUILD=fuzz fuzz-run
.PHONY: test-run fuzz-run
test-run: all $(TESTS) $(FUZZ)
	@$(if $(SAN),UNIT_TIMEOUT=1800 E2E_TIMEOUT=5400 )MODEL='$(MODEL)' tests/test.sh $(O) $(TESTS) $(FUZZ)
fuzz-run: $(FUZZ)
	@for f in $^; do n=$${f##*/fuzz_}; echo "== $$n"; mkdir -p $(BDIR)/corpus/$$n; \
	  $$f -max_total_time=$(or $(SECS),60) -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
	      -artifact_prefix=$(BDIR)/corpus/$$n- $(BDIR)/corpus/$$n \
	      $$(ls -d tests/fuzz/corpus/$$n 2>/dev/null) > $(BDIR)/corpus/$$n.log 2>&1 \
	      || { tail -n 40 $(BDIR)/corpus/$$n.log; echo "FAIL  $$n"; exit 1; }; \
	  grep -E 'number_of_executed_units|average_exec' $(BDIR)/corpus/$$n.log; done

HDRS := $(wildcard include/*.h include/base/*.h tests/*.h bench/*.h \
          $(foreach m,$(MODULES),$(DIR_$(m):%=%/*.h)))
TIDY := $(wildcard $(addsuffix /*.c,json daemon kvstore engine client daemon/front bench kernels \
          kernels/ref kernels/cpu kernels/cuda tests tests/sim tests/fuzz tests/regress \
          $(MODULES:%=tests/%)) $(addsuffix /*.cu*,kernels/cuda)) $(HDRS)
lint: $(HDRS:%=$(O)/hdr/%.ok)                   ## headers stand alone, layers, format, scripts, units
	@tests/tidy.sh
	@clang-format --dry-run -Werror $(TIDY)
	@shellcheck $(wildcard .ci/run scripts/*.sh tests/*.sh tests/e2e/*.sh bench/*.sh)
	@tests/e2e/test_units.sh $(O)
	@python3 tests/mutate/run.py --check
$(O)/hdr/%.ok: %
	@mkdir -p $(@D)
	@$(CC) $(CBASE) $(WARN) -Werror -fsyntax-only -x c $<
	@case $< in kernels/*) $(CC) -std=c++17 $(INC) -Wall -Wextra -Werror -fsyntax-only -x c++ $<;; esac
	@touch $@
format:                                         ## clang-format in place
	@clang-format -i $(TIDY)

ALL_OBJ = $(foreach m,$(MODULES),$(OBJ_$(m))) $(TOBJ) \
          $(call c,daemon/main.c daemon/front/main.c client/hearth_main.c)
compile_commands.json: $(sort $(ALL_OBJ))       ## for clangd
	@{ echo '['; cat $(^:=.json) | sed '$$s/,$$//'; echo ']'; } > $@

# --- install: everything under PREFIX, found there by systemd, man and the shells ------------
# Below HOME: for one user, whose systemd looks in share, and who has no system units.
MINE       := $(filter $(HOME)/%,$(PREFIX))
SYSTEMDDIR ?= $(PREFIX)/$(if $(MINE),share,lib)
SHAREDIR   ?= $(PREFIX)/share
SYSCONFDIR ?= /etc
D := $(DESTDIR)
UNITS     := $(if $(MINE),,$(wildcard systemd/*.service))
USERUNITS := $(wildcard systemd/user/*.service)
unit = sed -e 's,@BINDIR@,$(PREFIX)/bin,g' -e 's,@SYSCONFDIR@,$(SYSCONFDIR),g' $(1) > $(2) && chmod 644 $(2)
install: all                                    ## DESTDIR= PREFIX= SYSTEMDDIR= SYSCONFDIR=
	umask 022 && install -d $(D)$(PREFIX)/bin $(D)$(PREFIX)/lib/pkgconfig $(D)$(PREFIX)/include/hearth/base \
	  $(D)$(SYSTEMDDIR)/systemd/user $(D)$(SYSCONFDIR)/hearth $(D)$(SHAREDIR)/doc/hearth \
	  $(D)$(SHAREDIR)/man/man1 $(D)$(SHAREDIR)/man/man8 $(D)$(SHAREDIR)/bash-completion/completions \
	  $(D)$(SHAREDIR)/zsh/site-functions $(D)$(SHAREDIR)/fish/vendor_completions.d
	install -m 755 $(PROGS) $(D)$(PREFIX)/bin
	install -m 644 $(O)/libhearth.a $(D)$(PREFIX)/lib
	sed -e 's,@PREFIX@,$(PREFIX),g' -e "s,@VERSION@,$$(sed -n 's/.*HEARTH_VERSION *"\(.*\)"/\1/p' client/cli.h)," \
	  client/hearth.pc.in > $(D)$(PREFIX)/lib/pkgconfig/hearth.pc && chmod 644 $(D)$(PREFIX)/lib/pkgconfig/hearth.pc
	install -m 644 client/client.h include/proto.h $(D)$(PREFIX)/include/hearth
	install -m 644 $(wildcard include/base/*.h) $(D)$(PREFIX)/include/hearth/base
	$(if $(MINE),,umask 022 && install -d $(D)$(SYSTEMDDIR)/systemd/system $(D)$(SYSTEMDDIR)/sysusers.d $(D)$(SYSTEMDDIR)/tmpfiles.d)
	@for u in $(UNITS); do echo "unit $$u"; $(call unit,$$u,$(D)$(SYSTEMDDIR)/systemd/system/$${u##*/}) || exit 1; done
	@for u in $(USERUNITS); do echo "unit $$u"; $(call unit,$$u,$(D)$(SYSTEMDDIR)/systemd/user/$${u##*/}) || exit 1; done
	$(if $(MINE),,install -m 644 systemd/hearth.sysusers $(D)$(SYSTEMDDIR)/sysusers.d/hearth.conf)
	$(if $(MINE),,install -m 644 systemd/hearth.tmpfiles $(D)$(SYSTEMDDIR)/tmpfiles.d/hearth.conf)
	install -m 644 systemd/hearth.conf.example $(D)$(SYSCONFDIR)/hearth/hearth.conf.example
	install -m 644 README.md LICENSE $(wildcard docs/*.md) $(D)$(SHAREDIR)/doc/hearth
	install -m 644 $(wildcard man/*.1) $(D)$(SHAREDIR)/man/man1
	install -m 644 $(wildcard man/*.8) $(D)$(SHAREDIR)/man/man8
	umask 022 && $(O)/hearth completion bash > $(D)$(SHAREDIR)/bash-completion/completions/hearth
	umask 022 && $(O)/hearth completion zsh > $(D)$(SHAREDIR)/zsh/site-functions/_hearth
	umask 022 && $(O)/hearth completion fish > $(D)$(SHAREDIR)/fish/vendor_completions.d/hearth.fish
	chmod 644 $(D)$(SHAREDIR)/bash-completion/completions/hearth $(D)$(SHAREDIR)/zsh/site-functions/_hearth \
	  $(D)$(SHAREDIR)/fish/vendor_completions.d/hearth.fish
uninstall:                                      ## the reverse; sessions and models stay
	rm -f $(PROGS:$(O)/%=$(D)$(PREFIX)/bin/%) $(D)$(PREFIX)/lib/libhearth.a $(D)$(PREFIX)/lib/pkgconfig/hearth.pc \
	  $(UNITS:systemd/%=$(D)$(SYSTEMDDIR)/systemd/system/%) \
	  $(USERUNITS:systemd/user/%=$(D)$(SYSTEMDDIR)/systemd/user/%) \
	  $(D)$(SYSTEMDDIR)/sysusers.d/hearth.conf $(D)$(SYSTEMDDIR)/tmpfiles.d/hearth.conf \
	  $(D)$(SYSCONFDIR)/hearth/hearth.conf.example $(patsubst man/%.1,$(D)$(SHAREDIR)/man/man1/%.1,$(wildcard man/*.1)) \
	  $(patsubst man/%.8,$(D)$(SHAREDIR)/man/man8/%.8,$(wildcard man/*.8)) \
	  $(D)$(SHAREDIR)/bash-completion/completions/hearth $(D)$(SHAREDIR)/zsh/site-functions/_hearth \
	  $(D)$(SHAREDIR)/fish/vendor_completions.d/hearth.fish
	rm -rf $(D)$(PREFIX)/include/hearth $(D)$(SHAREDIR)/doc/hearth

info:                                           ## what was detected
	@echo 'BUILD=$(BUILD) CC=$(CC) SAN=$(SAN)'
	@echo 'NVCC=$(or $(NVCC),none) HAVE_CUDA=$(or $(HAVE_CUDA),0) CUDA_ARCH=$(CUDA_ARCH)'
	@echo 'CFLAGS=$(CFLAGS_ALL)'
	@echo 'LIBS_daemon=$(LIBS_daemon)'
	@echo 'tests: $(words $(TESTS))  fuzzers: $(words $(FUZZ))  tools: $(words $(TOOLS))'
help:                                           ## this list
	@sed -n 's/^\([a-z_.]*\):.*## /\1 \t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24
clean:                                          ## remove what was built, keep the test venv
	rm -rf $(foreach v,release debug asan tsan fuzz corpus mutate,$(BDIR)/$(v))

ifneq ($(filter-out $(NOBUILD),$(or $(MAKECMDGOALS),all)),)
-include $(shell find $(O) -name '*.d' 2>/dev/null)
endif
