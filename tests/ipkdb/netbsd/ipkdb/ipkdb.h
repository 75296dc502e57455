/* What ipkdb(9) gives to a port: the interface's description, and who calls whom. */
#define	IPKDB_MYHW	1
#define	IPKDB_MYIP	2

#define	IPKDB_CMD_RUN	0
#define	IPKDB_CMD_STEP	1
#define	IPKDB_CMD_EXIT	2

struct ipkdb_if {
	u_int8_t	myenetaddr[6], myinetaddr[4];
	u_int8_t	flags;
	const char	*name;
	void		*port;
	void		(*start)(struct ipkdb_if *);
	void		(*leave)(struct ipkdb_if *);
	int		(*receive)(struct ipkdb_if *, u_char *, int);
	void		(*send)(struct ipkdb_if *, u_char *, int);
};

/* Of sys/ipkdb, for the machine. */
int	ipkdbcmds(void);

/* Of either, depending on the release. */
void	ipkdbcopy(const void *, void *, int);
void	ipkdbzero(void *, int);
int	ipkdbcmp(void *, void *, int);

/* Of the machine, for sys/ipkdb. */
void	ipkdbinit(void);
void	ipkdb_trap(void);
int	ipkdb_poll(void);
int	ipkdbif_init(struct ipkdb_if *);
int	ipkdbfbyte(u_char *);
int	ipkdbsbyte(u_char *, int);
