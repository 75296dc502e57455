#include "small.h"

/* Words are separated by blanks. QEMU puts the program's name before the words, GRUB doesn't. */
int boot_flags(const char *command_line)
{
	int flags = 0;
	bool fresh = true, dashed = false;

	for (; *command_line; command_line++) {
		if (*command_line == ' ') {
			fresh = true;
			continue;
		}
		if (fresh)
			dashed = *command_line == '-';
		else if (dashed && *command_line == 'd')
			flags |= RB_KDB;
		fresh = false;
	}
	return flags;
}

const char *word_value(const char *command_line, const char *name)
{
	for (bool fresh = true; *command_line; fresh = *command_line++ == ' ') {
		const char *at = command_line, *wanted = name;

		if (!fresh)
			continue;
		while (*wanted && *at == *wanted) {
			at++;
			wanted++;
		}
		if (*wanted == '\0' && *at == '=')
			return at + 1;
	}
	return NULL;
}
