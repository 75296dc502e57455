/*
 * The whole user space of the Linux that the scenario debugs: a prompt on the console, and one command. The console must
 * be open for the kernel to receive a BREAK.
 */
#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_REBOOT 169

#define REBOOT_MAGIC1 0xfee1dead
#define REBOOT_MAGIC2 0x28121969
#define REBOOT_POWER_OFF 0x4321fedc

static long call(long number, long first, long second, long third)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
	return result;
}

static long length_of(const char *text)
{
	long length = 0;

	while (text[length])
		length++;
	return length;
}

static void say(const char *text)
{
	call(SYS_WRITE, 1, (long)text, length_of(text));
}

static int begins(const char *line, const char *word)
{
	while (*word)
		if (*line++ != *word++)
			return 0;
	return 1;
}

__attribute__((noreturn, force_align_arg_pointer)) void _start(void)
{
	static char line[128];

	for (;;) {
		say("# ");
		long length = call(SYS_READ, 0, (long)line, sizeof(line) - 1);

		line[length > 0 ? length : 0] = '\0';
		if (begins(line, "poweroff"))
			call(SYS_REBOOT, (long)REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_POWER_OFF);
		else if (begins(line, "uname"))
			say("Linux\n");
		else if (line[0] != '\n')
			say("not found\n");
	}
}
