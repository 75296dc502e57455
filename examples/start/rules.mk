# The rules that build the examples. A Makefile sets NAME, ARCH, OUT, OBJ and SOURCES (its own sources, and those that
# it uses from this directory besides the start-up code), then includes this file, which builds the program $(OUT). An
# installed example has this directory's files beside its own, so that a modified copy builds in the same way.
#
# The same sources and compiler give the same bytes in any directory: there is no build id, date or path in them. The
# debugging information names /usr/src/$(NAME) as the directory of all sources.

CC = gcc
START := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))

CFLAGS = -std=gnu11 -Og -g -gdwarf-4
WARNINGS = -Wall -Wextra -Werror -Wmissing-prototypes
MACHINE_amd64 = -m64 -mno-red-zone
MACHINE_i386 = -m32 -march=i686
MACHINE = $(MACHINE_$(ARCH))
FREESTANDING = -ffreestanding -fno-pic -fno-pie -mgeneral-regs-only -fno-stack-protector \
	-fcf-protection=none -fno-asynchronous-unwind-tables
REPRODUCIBLE = -ffile-prefix-map="$$PWD"=/usr/src/$(NAME) -ffile-prefix-map=$(START)=/usr/src/$(NAME)
ALL_CFLAGS = $(CFLAGS) $(WARNINGS) $(MACHINE) $(FREESTANDING) $(REPRODUCIBLE) -I$(START)
LDFLAGS = $(MACHINE) -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,max-page-size=0x1000 -Wl,-z,noexecstack

OBJECTS = $(OBJ)/boot.o $(OBJ)/traps_entry.o $(OBJ)/traps.o $(OBJ)/serial.o $(OBJ)/pci.o \
	$(addprefix $(OBJ)/,$(addsuffix .o,$(basename $(SOURCES))))
HEADERS = $(wildcard *.h) $(wildcard $(START)/*.h)

all: $(OUT)

$(OUT): $(OBJECTS) $(START)/link.ld
	$(CC) $(LDFLAGS) -T $(START)/link.ld -o "$@" $(OBJECTS)

$(OBJ)/traps_entry.o: $(START)/traps.S
	@mkdir -p $(OBJ)
	$(CC) $(ALL_CFLAGS) -c -o $@ $(START)/traps.S

# An explicit rule, since traps.S would match the patterns below too.
$(OBJ)/traps.o: $(START)/traps.c $(HEADERS)
	@mkdir -p $(OBJ)
	$(CC) $(ALL_CFLAGS) -c -o $@ $(START)/traps.c

$(OBJ)/boot.o: $(START)/boot.S $(HEADERS)
	@mkdir -p $(OBJ)
	$(CC) $(ALL_CFLAGS) -c -o $@ $(START)/boot.S

# An example's own source is preferred to a file of the same name in this directory.
$(OBJ)/%.o: %.c $(HEADERS)
	@mkdir -p $(OBJ)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(OBJ)/%.o: %.S $(HEADERS)
	@mkdir -p $(OBJ)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(OBJ)/%.o: $(START)/%.c $(HEADERS)
	@mkdir -p $(OBJ)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

.PHONY: all clean
