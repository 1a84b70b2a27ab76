# Front door over Meson and Ninja. BUILD is the build directory; V=1 shows commands.
BUILD ?= build
V ?= 0
PYTHON ?= python3
SRC := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
NINJA_FLAGS := $(if $(filter 1,$(V)),-v,) $(if $(findstring k,$(firstword -$(MAKEFLAGS))),-k 0,)

.PHONY: all build demo check check-full install uninstall clean distclean format deps-build

all: build

deps-build:
	@$(SRC)scripts/deps.sh build run

$(BUILD)/build.ninja: | deps-build
	@test -e $@ || meson setup $(MESON_FLAGS) $(BUILD) $(SRC)

build: $(BUILD)/build.ninja
	@ninja $(NINJA_FLAGS) -C $(BUILD)

# A Debian kernel with a BusyBox user space on a qcow2 disk, network up, a shell on this terminal.
demo:
	@$(SRC)scripts/deps.sh build demo
	@$(MAKE) --no-print-directory build
	@$(SRC)scripts/demo.sh $(BUILD)

check:
	@$(SRC)scripts/deps.sh build check
	@$(MAKE) --no-print-directory build
	@$(PYTHON) $(SRC)scripts/run_checks.py $(if $(CI),--ci,) $(BUILD)

check-full:
	@$(SRC)scripts/deps.sh build full
	@$(MAKE) --no-print-directory build
	@$(PYTHON) $(SRC)scripts/run_checks.py --full $(BUILD)

install: build
	@DESTDIR="$(DESTDIR)" meson install --no-rebuild -C $(BUILD)

uninstall:
	@ninja -C $(BUILD) uninstall

format:
	@git -C $(SRC) ls-files '*.c' '*.h' | sed 's|^|$(SRC)|' | xargs clang-format -i

clean:
	@test ! -e $(BUILD)/build.ninja || ninja -C $(BUILD) clean

distclean:
	@rm -rf $(BUILD)
