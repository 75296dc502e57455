/* The interface between sys/ipkdb, the machine-dependent part and a network driver: see ipkdb(9). */
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

/* In sys/ipkdb, called by the machine-dependent part. */
int	ipkdbcmds(void);

/* In one of both, depending on the release. */
void	ipkdbcopy(const void *, void *, int);
void	ipkdbzero(void *, int);
int	ipkdbcmp(void *, void *, int);

/* In the machine-dependent part, called by sys/ipkdb. */
void	ipkdbinit(void);
void	ipkdb_trap(void);
int	ipkdb_poll(void);
int	ipkdbif_init(struct ipkdb_if *);
int	ipkdbfbyte(u_char *);
int	ipkdbsbyte(u_char *, int);
