"""The commands for Linux, on variables with the kernel's names. Scenario `kgdb` runs them on a kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.labfixture import host_tool
from support.staging import command

from rumplab.gdb import kgdb_commands
from rumplab.postmortem import core, debugger, elf
from rumplab.postmortem.record import Record

# The ring of messages has 8 descriptors and 64 bytes of text. The number of the oldest one is 6, so the later ones are
# at the beginning again. A message of an earlier round is still in the ring, one is reserved, one is empty, one begins
# at the end of the text and is stored at its beginning.
PROGRAM = r"""
typedef struct { long counter; } atomic_long_t;
struct list_head { struct list_head *next, *prev; };
struct task_struct {
    unsigned int flags; int pid, tgid; struct list_head tasks; struct task_struct *real_parent; char comm[16];
};
extern struct task_struct init_task, init, worker;
struct task_struct init_task = {0x200002, 0, 0, {&init.tasks, &worker.tasks}, &init_task, "swapper/0"};
struct task_struct init = {0x400100, 1, 1, {&worker.tasks, &init_task.tasks}, &init_task, "init"};
struct task_struct worker = {0x208040, 77, 77, {&init_task.tasks, &init.tasks}, &init, "kworker/0:0H-ev"};

struct lpos { unsigned long begin, next; };
struct prb_desc { atomic_long_t state_var; struct lpos text_blk_lpos; };
struct printk_info { unsigned long long seq, ts_nsec; unsigned short text_len; };
struct prb_desc_ring {
    unsigned int count_bits; struct prb_desc *descs; struct printk_info *infos; atomic_long_t head_id, tail_id;
};
struct prb_data_ring { unsigned int size_bits; char *data; atomic_long_t head_lpos, tail_lpos; };
struct printk_ringbuffer { struct prb_desc_ring desc_ring; struct prb_data_ring text_data_ring; };

#define STATE(id, state) {(long) ((unsigned long) (state) << 62 | (id))}
static struct prb_desc descs[8] = {
    [6] = {STATE(6, 2), {64 + 16, 64 + 40}},
    [7] = {STATE(7, 2), {1, 1}},
    [0] = {STATE(8, 0), {64 + 40, 64 + 56}},
    [1] = {STATE(9, 1), {64 + 56, 128 + 16}},
    [2] = {STATE(2, 2), {0, 16}},
};
static struct printk_info infos[8] = {
    [6] = {6, 1500000, 13}, [7] = {7, 2000000000, 0}, [0] = {8, 0, 4}, [1] = {9, 3000004000, 7}, [2] = {2, 1, 5},
};
static char data[64] = "--------wrap 9\n\0" "--------hello, 100 %s\0\0\0" "--------gone\0\0\0\0" "--------";
static struct printk_ringbuffer ring = {{3, descs, infos, {9}, {6}}, {6, data, {0}, {0}}};
struct printk_ringbuffer *prb = &ring;
char linux_banner[] = "Linux version 6.1";
int main(void) { return 0; }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("linux") / "vmlinux"
    argv = [command("gcc"), "-x", "c", "-g", "-no-pie", "-o", str(path), "-"]
    subprocess.run(argv, input=PROGRAM, text=True, check=True, timeout=60)
    return path


def said(program: Path, *commands: str) -> str:
    argv = [host_tool("gdb"), "-nx", "-batch", "-ex", f"source {kgdb_commands.LINUX_HELPERS}"]
    for one in commands:
        argv += ["-ex", one]
    # The variables have values in the file, so no process needs to run.
    shown = subprocess.run([*argv, str(program)], capture_output=True, text=True, timeout=30, check=True)
    assert shown.stderr == ""
    return shown.stdout


def test_the_processes_are_listed(program: Path) -> None:
    assert said(program, "linux-ps") == (
        "  PID  PPID KIND   COMMAND\n"
        "    0     0 kernel swapper/0\n"
        "    1     0 user   init\n"
        "   77     1 kernel kworker/0:0H-ev\n"
    )


def test_the_messages_are_printed_from_the_oldest_to_the_newest(program: Path) -> None:
    assert said(program, "linux-dmesg") == ("[    0.001500] hello, 100 %s\n[    2.000000] \n[    3.000004] wrap 9\n\n")


def test_the_commands_have_a_help_text(program: Path) -> None:
    assert "as dmesg(1) does" in said(program, "help linux-dmesg")
    assert "List the kernel's processes" in said(program, "help linux-ps")


def test_the_symbols_say_which_commands_a_dump_gets(program: Path, tmp_path: Path) -> None:
    def files(kind: str | None, symbols: str | None) -> list[str]:
        record = None if kind is None else Record("x", kind=kind)
        content = core.Core("x", None, elf.Elf(b"", True, elf.ET_CORE, elf.EM_X86_64, (), ()), record, ())
        return debugger.files(content, symbols)

    linux, netbsd = [str(kgdb_commands.LINUX_HELPERS)], [str(kgdb_commands.HELPERS)]
    assert files("linux", None) == files(None, str(program)) == files("", str(program)) == linux
    assert files("netbsd", str(program)) == netbsd
    assert files(None, None) == files("", "/nowhere") == files(None, command("true")) == []
