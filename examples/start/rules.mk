# How the examples are built, for their Makefiles: these set NAME, ARCH, OUT, OBJ and SOURCES (their own, and what
# they take of this directory beyond the start), then include this file and get the program $(OUT). What is installed
# of an example has this directory's files beside its own; a program made of a copy of it is built in the same way.
#
# The same sources and compiler give the same bytes, wherever they lie: no build id, no date, no path. All
# sources are recorded as lying in /usr/src/$(NAME).

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

# Named, as the patterns below would find traps.S for it too.
$(OBJ)/traps.o: $(START)/traps.c $(HEADERS)
	@mkdir -p $(OBJ)
	$(CC) $(ALL_CFLAGS) -c -o $@ $(START)/traps.c

$(OBJ)/boot.o: $(START)/boot.S $(HEADERS)
	@mkdir -p $(OBJ)
	$(CC) $(ALL_CFLAGS) -c -o $@ $(START)/boot.S

# An example's own source goes before one of the start of the same name.
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
