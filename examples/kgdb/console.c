/*
 * The console: a login prompt, and a shell with a few commands, so that scripts for a NetBSD guest's console work
 * with this kernel too.
 */
#include "kernel.h"

#define LINE 128
#define WORDS 8

static enum { LOGIN, SHELL, HALTED } state;
static char line[LINE];
static unsigned int length;

static void prompt(void)
{
	if (state == LOGIN)
		printf("\nkgdbdemo/" MACHINE " (console)\n\nlogin: ");
	else if (state == SHELL)
		printf("# ");
}

static void going_down(const char *what)
{
	printf("Shutdown NOW!\nsystem going down: %s\n", what);
}

static bool has(char **words, const char *option)
{
	for (; *words; words++)
		if (same(*words, option))
			return true;
	return false;
}

static void command_shutdown(char **words)
{
	if (has(words, "-p")) {
		going_down("power off");
		power_off();
	}
	if (has(words, "-r")) {
		going_down("reboot");
		reboot();
	}
	going_down("halt");
	printf("The operating system has halted.\nPlease press any key to reboot.\n");
	state = HALTED;
}

static void command_reboot(char **words)
{
	(void)words;
	going_down("reboot");
	reboot();
}

static void command_poweroff(char **words)
{
	(void)words;
	going_down("power off");
	power_off();
}

static void command_pcictl(char **words)
{
	const char *bus = words[1];

	if (bus == NULL || bus[0] != 'p' || bus[1] != 'c' || bus[2] != 'i' || bus[3] < '0' || bus[3] > '9' ||
	    bus[4] != '\0' || words[2] == NULL || !same(words[2], "list"))
		printf("usage: pcictl pciN list [-Nn]\n");
	else if (!pci_list((unsigned int)(bus[3] - '0'), has(words, "-N") || has(words, "-Nn"),
			   has(words, "-n") || has(words, "-Nn")))
		printf("pcictl: %s: Device not configured\n", bus);
}

static void command_ps(char **words)
{
	(void)words;
	proc_print();
}

static void command_dmesg(char **words)
{
	(void)words;
	log_print();
}

static void command_echo(char **words)
{
	for (words++; *words; words++)
		printf(words[1] ? "%s " : "%s", *words);
	printf("\n");
}

static void command_uname(char **words)
{
	(void)words;
	printf("kgdbdemo/" MACHINE "\n");
}

static void command_exit(char **words)
{
	(void)words;
	state = LOGIN;
}

static const struct {
	const char *name;
	void (*run)(char **words);
} commands[] = {
	{"dmesg", command_dmesg},   {"echo", command_echo},	    {"exit", command_exit},
	{"halt", command_shutdown}, {"pcictl", command_pcictl},	    {"poweroff", command_poweroff},
	{"ps", command_ps},	    {"reboot", command_reboot},	    {"shutdown", command_shutdown},
	{"uname", command_uname},
};

/* Runs one command. Its words are separated by blanks; there is no quoting. */
static void run(char *text)
{
	char *words[WORDS + 1];
	unsigned int count = 0;

	while (count < WORDS) {
		while (*text == ' ')
			*text++ = '\0';
		if (*text == '\0')
			break;
		words[count++] = text;
		while (*text && *text != ' ')
			text++;
	}
	words[count] = NULL;
	if (count == 0)
		return;
	for (unsigned int index = 0; index < sizeof(commands) / sizeof(commands[0]); index++)
		if (same(words[0], commands[index].name)) {
			commands[index].run(words);
			return;
		}
	printf("%s: not found\n", words[0]);
}

static void shell(char *text)
{
	for (char *end; state == SHELL && *text; text = end) {
		for (end = text; *end && *end != ';'; end++)
			continue;
		if (*end == ';')
			*end++ = '\0';
		run(text);
	}
}

static void enter(void)
{
	line[length] = '\0';
	length = 0;
	printf("\n");
	if (state == SHELL)
		shell(line);
	else if (same(line, "root"))
		state = SHELL;
	else if (line[0] != '\0')
		printf("Login incorrect\n");
	prompt();
}

void console_init(void)
{
	state = LOGIN;
	prompt();
}

void console_poll(void)
{
	int character;

	if (power_button_pressed()) {
		printf("\npower button pressed\n");
		command_poweroff(NULL);
	}
	while ((character = console_getc()) >= 0) {
		if (state == HALTED)
			reboot();
		if (character == '\r' || character == '\n') {
			enter();
		} else if ((character == '\b' || character == 0x7f) && length > 0) {
			length--;
			serial_string("\b \b");
		} else if (character >= ' ' && character < 0x7f && length < LINE - 1) {
			line[length++] = (char)character;
			serial_character((char)character);
		}
	}
}
