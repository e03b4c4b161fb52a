import { RuleAction } from '../../gen/client/sendbatch/v1/moderation_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Badge } from '../ui/display.tsx';
import type { Tone } from '../ui/tone.ts';
import { moderationTexts } from './texts.ts';

/** The actions of rules, the strongest first. */
export const ruleActions = [
  { action: RuleAction.REFUSE, name: 'refuse', tone: 'danger' },
  { action: RuleAction.MASK, name: 'mask', tone: 'warning' },
  { action: RuleAction.FLAG, name: 'flag', tone: 'info' },
] as const satisfies readonly { action: RuleAction; name: string; tone: Tone }[];

export function ActionBadge({ action }: { readonly action: RuleAction }) {
  const t = useTexts(moderationTexts);
  const known = ruleActions.find((each) => each.action === action);
  return known === undefined ? null : <Badge tone={known.tone}>{t(`actions.${known.name}`)}</Badge>;
}
