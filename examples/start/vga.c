/* The display's text screen, as set by the BIOS: 80 by 25 cells, each a character and its colours, at 0xb8000. */
#include "platform.h"

#define SCREEN ((volatile uint16_t *)0xb8000)
#define COLUMNS 80
#define ROWS 25
#define TAB 8
#define GREY_ON_BLACK 0x0700

#define CRTC_CURSOR_HIGH 14
#define CRTC_CURSOR_LOW 15

static uint16_t controller;
static unsigned int column, row;

static void clear_row(unsigned int which)
{
	for (unsigned int at = 0; at < COLUMNS; at++)
		SCREEN[which * COLUMNS + at] = GREY_ON_BLACK | ' ';
}

static void show_cursor(void)
{
	unsigned int at = row * COLUMNS + column;

	if (controller == 0)
		return;
	out8(controller, CRTC_CURSOR_HIGH);
	out8((uint16_t)(controller + 1), (uint8_t)(at >> 8));
	out8(controller, CRTC_CURSOR_LOW);
	out8((uint16_t)(controller + 1), (uint8_t)at);
}

static void next_row(void)
{
	column = 0;
	if (row < ROWS - 1) {
		row++;
		return;
	}
	for (unsigned int at = 0; at < (ROWS - 1) * COLUMNS; at++)
		SCREEN[at] = SCREEN[at + COLUMNS];
	clear_row(ROWS - 1);
}

void vga_init(uint16_t display)
{
	controller = display;
	for (unsigned int which = 0; which < ROWS; which++)
		clear_row(which);
	show_cursor();
}

void vga_character(char character)
{
	if (character == '\n') {
		next_row();
	} else if (character == '\r') {
		column = 0;
	} else {
		/* Wrap only before the next character, so that a full line and its line feed take one row, not two. */
		if (column >= COLUMNS)
			next_row();
		if (character == '\t')
			column = (column + TAB) / TAB * TAB;
		else
			SCREEN[row * COLUMNS + column++] = (uint16_t)(GREY_ON_BLACK | (uint8_t)character);
	}
	show_cursor();
}
