"""What each finding means and what to do about it, in the languages that operators read.

`{what}` in a text is the name of the checked part. Details, such as the text of an error, follow unchanged.
"""

from typing import NamedTuple

from contracts.base import Locale


class Advice(NamedTuple):
    """The meaning of a finding, which follows the name of the checked part; and what to do next, in whole sentences."""

    means: str
    next: str


_EN = {
    "python": Advice("not supported", "Use Python 3.11, 3.12 or 3.13."),
    "disk": Advice(
        "nearly full",
        "Make room on it, a GB at least: a full disk stops the broker and every database.",
    ),
    "disk_full": Advice(
        "full: the broker and the databases on it can write nothing",
        "Make room on it, a GB at least: all goes on by itself then, and nothing is lost. What may go: old logs and"
        " backups, exported files; not what is in broker/ and *.db.",
    ),
    "needs_disk": Advice("can write nothing, because the disk is full", "It goes on by itself once there is room."),
    "damaged_secrets": Advice(
        "its file of passwords is damaged",
        "Put this file back from a backup. Without one: `malote down`, move it and the folder broker/ beside it away,"
        " `malote up`. That makes new passwords; what waits in queues stays in the folder that was moved, and every"
        " token has to be issued again.",
    ),
    "damaged_state": Advice(
        "its file of what runs is damaged",
        "`malote down`, then `malote up`, writes it anew. If ports are taken then, what holds them is named.",
    ),
    "damaged_replicas": Advice(
        "its file of how many processes are wanted is damaged",
        "`malote down`, then `malote up`, writes it anew, with one process of each service; what runs goes on until"
        " then.",
    ),
    "data_folder": Advice(
        "cannot be used",
        "Give the data folder and all that is in it to the user that runs `malote` (chown -R), or set MALOTE_DATA to"
        " another folder. What needs the passwords in it cannot be looked at until then.",
    ),
    "rabbitmq": Advice("not installed", "`malote up` installs it, or says what to do."),
    "ports": Advice(
        "taken by another program, or given twice", "Set the variable that is named, or end the other program."
    ),
    "fleet_unkept": Advice(
        "the supervisor has ended, so nothing that crashes is started again",
        "`malote up --detach` replaces what it left running.",
    ),
    "broker_stopped": Advice(
        "its process is stopped: it exists, but does not run", "Start it again: `malote restart broker`."
    ),
    "broker_down": Advice(
        "does not answer, so every message waits",
        "`malote logs --service supervisor --since 10m` says what became of it; `malote restart broker` starts it"
        " again. Nothing is lost: what was accepted waits in the databases.",
    ),
    "broker_node": Advice(
        "a node of the cluster does not answer, the others do",
        "Start it again: messages go on with most of the nodes, and wait once half of them are away.",
    ),
    "broker_unmanaged": Advice(
        "its management API does not answer",
        "Queues cannot be looked at. If all else is well, wait; or `malote restart broker`.",
    ),
    "broker_memory": Advice(
        "memory alarm: it takes no more messages",
        "`malote lanes` shows the lane that has grown; start its consumer, or give the broker more memory.",
    ),
    "broker_disk": Advice(
        "disk alarm: it takes no more messages",
        "Make room on the broker's disk: it goes on by itself.",
    ),
    "broker_files": Advice("no file handles are left: it takes no more connections", "Raise its limit of open files."),
    "broker_tracing": Advice(
        "copies every message, as `malote events` left it when it was killed",
        "`malote events --limit 0` turns it off.",
    ),
    "database_read_only": Advice(
        "its database cannot be written",
        "Give the user that runs the service the right to write this file and its folder; look whether the disk is"
        " mounted read-only.",
    ),
    "database": Advice(
        "its database cannot be used",
        "Look at the database's server or file; {what} goes on by itself once it works.",
    ),
    "mail_stopped": Advice(
        "its process is stopped: it exists, but does not run", "Start it again: `malote restart mail`."
    ),
    "mail_server": Advice(
        "the mail server takes no mail",
        "Look at that server. Mails wait and are tried again; `malote mail` shows what became of them.",
    ),
    "service_stopped": Advice(
        "its process is stopped: it exists, but does not run", "Start it again: `malote restart {what}`."
    ),
    "service_down": Advice(
        "does not answer",
        "`malote logs --service {what} --level warning --since 10m` says why; `malote restart {what}` starts it again.",
    ),
    "service_restarting": Advice(
        "ends and is started again, over and over",
        "`malote logs --service {what} --level error --since 10m` says why.",
    ),
    "service_not_ready": Advice("not ready", "`malote logs --service {what} --level warning --since 10m` says more."),
    "service_waits": Advice("waits for what is named above", "It goes on by itself once that is mended."),
    "service_warning": Advice(
        "works, but needs a look",
        "`malote lanes` shows how far behind it is, `malote logs --service {what} --level warning --since 10m` why.",
    ),
    "topology": Advice("the broker lacks queues or bindings", "`malote topology apply` makes them."),
    "old_queues": Advice(
        "queues of a version before are left, and nothing consumes them",
        "`malote topology apply` moves what is in them and removes them; an import of definitions does not.",
    ),
    "dead_letters": Advice(
        "messages have failed for good and wait for a decision",
        "`malote dlq list` groups them by reason; `malote dlq replay --group GROUP` sends a group again.",
    ),
    "unreadable_letters": Advice(
        "messages that no consumer can read wait for a decision",
        "Sent again as they are they come back, unless a version that knows them was started since."
        " `malote dlq list --letters` names them, `malote dlq show ID` shows what one carries, `malote dlq edit ID`"
        " sends a mended one in its place, `malote dlq purge --group GROUP` removes a group.",
    ),
}
_PT_BR = {
    "python": Advice("versão não suportada", "Use Python 3.11, 3.12 ou 3.13."),
    "disk": Advice(
        "quase cheio",
        "Libere espaço, pelo menos 1 GB: um disco cheio para o broker e todos os bancos de dados.",
    ),
    "disk_full": Advice(
        "cheio: o broker e os bancos de dados nele não podem gravar nada",
        "Libere espaço, pelo menos 1 GB: tudo continua sozinho depois, e nada se perde. O que pode sair: logs e"
        " backups antigos, arquivos exportados; não o que está em broker/ e *.db.",
    ),
    "needs_disk": Advice("não pode gravar nada, porque o disco está cheio", "Continua sozinho quando houver espaço."),
    "damaged_secrets": Advice(
        "seu arquivo de senhas está danificado",
        "Restaure este arquivo de um backup. Sem um: `malote down`, mova-o e a pasta broker/ ao lado dele para outro"
        " lugar, `malote up`. Isso cria senhas novas; o que espera em filas fica na pasta movida, e todo token tem de"
        " ser emitido de novo.",
    ),
    "damaged_state": Advice(
        "seu arquivo do que está executando está danificado",
        "`malote down` e depois `malote up` o escrevem de novo. Se então houver portas ocupadas, quem as ocupa é"
        " indicado.",
    ),
    "damaged_replicas": Advice(
        "seu arquivo de quantos processos são desejados está danificado",
        "`malote down` e depois `malote up` o escrevem de novo, com um processo de cada serviço; o que executa continua"
        " até então.",
    ),
    "data_folder": Advice(
        "não pode ser usada",
        "Dê a pasta de dados e tudo o que está nela ao usuário que executa `malote` (chown -R), ou indique outra pasta"
        " em MALOTE_DATA. Até lá, não é possível ver o que depende das senhas que estão nela.",
    ),
    "rabbitmq": Advice("não está instalado", "`malote up` o instala ou diz o que fazer."),
    "ports": Advice(
        "ocupada por outro programa, ou indicada duas vezes", "Mude a variável indicada ou encerre o outro programa."
    ),
    "fleet_unkept": Advice(
        "o supervisor terminou, por isso o que falha não é mais iniciado de novo",
        "`malote up --detach` substitui o que ficou executando.",
    ),
    "broker_stopped": Advice(
        "seu processo está parado: existe, mas não executa", "Inicie-o de novo: `malote restart broker`."
    ),
    "broker_down": Advice(
        "não responde, por isso todas as mensagens esperam",
        "`malote logs --service supervisor --since 10m` diz o que houve; `malote restart broker` o inicia de novo."
        " Nada se perde: o que foi aceito espera nos bancos de dados.",
    ),
    "broker_node": Advice(
        "um nó do cluster não responde, os outros sim",
        "Inicie-o de novo: as mensagens seguem com a maioria dos nós e esperam quando falta a metade.",
    ),
    "broker_unmanaged": Advice(
        "sua API de administração não responde",
        "Não é possível ver as filas. Se o resto está bem, espere; ou `malote restart broker`.",
    ),
    "broker_memory": Advice(
        "alarme de memória: não aceita mais mensagens",
        "`malote lanes` mostra a fila que cresceu; inicie seu consumidor ou dê mais memória ao broker.",
    ),
    "broker_disk": Advice(
        "alarme de disco: não aceita mais mensagens",
        "Libere espaço no disco do broker: ele continua sozinho.",
    ),
    "broker_files": Advice(
        "não pode abrir mais arquivos: não aceita mais conexões", "Aumente o limite de arquivos abertos dele."
    ),
    "broker_tracing": Advice(
        "copia cada mensagem, como `malote events` o deixou ao ser interrompido à força",
        "`malote events --limit 0` desliga a cópia.",
    ),
    "database_read_only": Advice(
        "não é possível escrever em seu banco de dados",
        "Dê ao usuário que executa o serviço o direito de escrever neste arquivo e em sua pasta; veja se o disco está"
        " montado somente para leitura.",
    ),
    "database": Advice(
        "seu banco de dados não pode ser usado",
        "Veja o servidor ou o arquivo do banco; {what} continua sozinho quando ele funcionar.",
    ),
    "mail_stopped": Advice(
        "seu processo está parado: existe, mas não executa",
        "Inicie-o de novo: `malote restart mail`.",
    ),
    "mail_server": Advice(
        "o servidor de e-mail não aceita mensagens",
        "Veja esse servidor. Os e-mails esperam e são tentados de novo; `malote mail` mostra o que houve com eles.",
    ),
    "service_stopped": Advice(
        "seu processo está parado: existe, mas não executa", "Inicie-o de novo: `malote restart {what}`."
    ),
    "service_down": Advice(
        "não responde",
        "`malote logs --service {what} --level warning --since 10m` diz por quê; `malote restart {what}` o inicia de"
        " novo.",
    ),
    "service_restarting": Advice(
        "termina e é iniciado de novo, repetidamente",
        "`malote logs --service {what} --level error --since 10m` diz por quê.",
    ),
    "service_not_ready": Advice(
        "não está pronto", "`malote logs --service {what} --level warning --since 10m` diz mais."
    ),
    "service_waits": Advice("espera pelo que está indicado acima", "Continua sozinho quando isso for resolvido."),
    "service_warning": Advice(
        "funciona, mas precisa de atenção",
        "`malote lanes` mostra o atraso; `malote logs --service {what} --level warning --since 10m`, o motivo.",
    ),
    "topology": Advice("faltam filas ou ligações no broker", "`malote topology apply` as cria."),
    "old_queues": Advice(
        "restam filas de uma versão anterior, que ninguém consome",
        "`malote topology apply` move o que está nelas e as remove; uma importação de definições não o faz.",
    ),
    "dead_letters": Advice(
        "mensagens falharam de vez e esperam uma decisão",
        "`malote dlq list` as agrupa por motivo; `malote dlq replay --group GRUPO` envia um grupo de novo.",
    ),
    "unreadable_letters": Advice(
        "mensagens que nenhum consumidor consegue ler esperam uma decisão",
        "Enviadas de novo como estão, elas voltam, a não ser que uma versão que as conhece tenha sido iniciada depois."
        " `malote dlq list --letters` as lista, `malote dlq show ID` mostra o que uma contém, `malote dlq edit ID`"
        " envia uma corrigida em seu lugar, `malote dlq purge --group GRUPO` remove um grupo.",
    ),
}
TEXTS: dict[Locale, dict[str, Advice]] = {"en": _EN, "pt-BR": _PT_BR}


def advice(kind: str, what: str, locale: Locale = "en") -> Advice:
    """What a finding of this kind about `what` means, and what to do next."""
    return Advice(*(text.format(what=what) for text in TEXTS[locale][kind]))
